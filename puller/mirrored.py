"""What an attempt that succeeds has found."""

from typing import NamedTuple


class Mirrored(NamedTuple):
    """The mirror is as upstream was."""

    revision: str | None
    """What is at the tip; None if there is nothing yet."""
    digest: str
    """Of all that the mirror has."""
    has_changed: bool
    """Whether anything was fetched."""
