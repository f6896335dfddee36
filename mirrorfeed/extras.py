"""What to say if an optional part of the package is used and what it needs is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

MODULES = {
    "authserver": frozenset(["defusedxml", "uvicorn"]),
    "consumer": frozenset(["alembic", "click", "psycopg2", "pythonjsonlogger", "rich", "sqlalchemy"]),
}
"""What each extra brings, by the names that are imported."""


class ExtraMissing(ModuleNotFoundError):
    """A module that comes with an extra is not installed; the message says how to install it."""


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Around imports: raises ExtraMissing if one fails for want of the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in MODULES[name]:
            raise
        raise ExtraMissing(
            f"{module} is not installed; install it with: pip install 'mirrorfeed[{name}]'"
        ) from None
