"""A clear error if an optional part of the package is used but its extra is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

MODULES = {
    "authserver": frozenset(["defusedxml", "uvicorn"]),
    "consumer": frozenset(["alembic", "click", "psycopg2", "sqlalchemy"]),
    "web": frozenset(["jinja2", "markupsafe", "starlette", "uvicorn"]),
}
"""The modules that each extra installs, by the names they are imported under."""


class ExtraMissing(ModuleNotFoundError):
    """A module that comes with an extra is not installed; the message says how to install it."""


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Put this around imports: it raises ExtraMissing if one fails because the extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in MODULES[name]:
            raise
        raise ExtraMissing(
            f"{module} is not installed; install it with: pip install 'mirrorfeed[{name}]'"
        ) from None
