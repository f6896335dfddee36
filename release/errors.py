"""What keeps a version from being published."""


class ReleaseError(RuntimeError):
    """The message says what to put right."""
