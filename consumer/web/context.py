"""What every page is made from, and what it is before it becomes HTML or JSON."""

from collections.abc import Callable, Hashable
from datetime import datetime, timedelta
from functools import lru_cache
from http import HTTPStatus
from typing import Any, TypeVar

from markupsafe import Markup
from msgspec import Struct, field
from sqlalchemy import Connection, Engine

from mirrorfeed.consumer.branches.listing import Patience
from mirrorfeed.consumer.sources.silence import SILENT_AFTER
from mirrorfeed.consumer.web.operator import Operator, why_not
from mirrorfeed.consumer.web.shared import Shared
from mirrorfeed.consumer.web.surveys import Surveys
from mirrorfeed.consumer.web.watch import Watch
from mirrorfeed.contract.secrets import mask_secrets

RIGHTS_SECONDS = 10.0
FRESH_SECONDS = 2.0
"""How long viewers of one page share what was read for it."""

SHORT = 100
"""The longest text that is remembered with what masking it gave."""

T = TypeVar("T")


class Settings(Struct, frozen=True, kw_only=True):
    """What counts as a reason to look, and where the page is."""

    prefix: str = ""
    """The path below which a proxy shows the page."""
    patience: Patience = Patience()
    silent_after: timedelta = SILENT_AFTER
    """A host that was not heard for that long is silent; quiet spools speak once an hour."""
    grace_seconds: float = 60.0
    """Numbers that are missing for less may be on their way."""


class Context(Struct, frozen=True):
    """The servers, and what pages share."""

    engine: Engine
    watch: Watch
    shared: Shared
    surveys: Surveys
    settings: Settings
    operator: Operator | None = None
    """None if the page only reads."""

    def why_not(self) -> str | None:
        """Why nothing can be changed from this page; None if it can. Raises SQLAlchemyError."""
        if self.operator is None:
            return "this page only reads: it was started without --operate"
        return self.read("rights", why_not, fresh_seconds=RIGHTS_SECONDS)

    def read(
        self,
        key: Hashable,
        read: Callable[[Connection], T],
        *,
        fresh_seconds: float = FRESH_SECONDS,
    ) -> T:
        """What `read` gives in a transaction of its own, or gave for this key a moment ago.

        Raises SQLAlchemyError, and what `read` raises.
        """

        def in_transaction() -> T:
            with self.engine.begin() as connection:
                return read(connection)

        return self.shared.get(key, in_transaction, fresh_seconds=fresh_seconds)


class Page(Struct, frozen=True):
    """A page: for programs its document, for people a template with that in it."""

    template: str
    title: str
    at: datetime
    """When it was so, by the database's clock."""
    document: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)
    """What only the template needs."""
    status: HTTPStatus = HTTPStatus.OK


# Half of the time that a page takes: names and states come again and again.
_short_masked = lru_cache(maxsize=8192)(mask_secrets)


def without_secrets(value: Any) -> Any:
    """The same document, with every text in it masked, wherever it came from."""
    match value:
        case Markup():  # ours
            return value
        case str():
            return _short_masked(value) if len(value) <= SHORT else mask_secrets(value)
        case dict():
            return {name: without_secrets(each) for name, each in value.items()}
        case list() | tuple():
            return [without_secrets(each) for each in value]
        case _:
            return value
