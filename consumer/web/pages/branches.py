"""Branches: filtered by the address, sorted, a page at a time; as CSV all of them."""

import csv
import io
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from msgspec import structs
from sqlalchemy import Connection
from starlette.requests import Request

from mirrorfeed.consumer.branches.listing import (
    PAGE,
    Census,
    Filter,
    Sort,
    census,
    page,
)
from mirrorfeed.consumer.branches.status import BranchState
from mirrorfeed.consumer.branches.survey import LATEST, Ranking, Survey, ranked_page, survey
from mirrorfeed.consumer.database import database_now
from mirrorfeed.consumer.web import query
from mirrorfeed.consumer.web.context import Context, Page, without_secrets
from mirrorfeed.consumer.web.pages.rows import with_attempts
from mirrorfeed.contract.printing import printable_lines
from mirrorfeed.contract.wire import timestamp

Order = Sort | Ranking

CSV_CHUNK = 2000
COLUMNS = (
    "id",
    "unique_name",
    "state",
    "is_stale",
    "last_mirror_attempt",
    "last_mirrored",
    "last_success_age_seconds",
    "last_mirrored_id",
    "revision_changed_at",
    "mirror_failures",
    "success_share",
    "mean_seconds",
    "hostname",
    "url",
    "mirror_status_message",
)
FORMULA = (
    *("=", "+", "-", "@"),
    "\N{FULLWIDTH EQUALS SIGN}",
    "\N{FULLWIDTH PLUS SIGN}",
    "\N{FULLWIDTH HYPHEN-MINUS}",
    "\N{FULLWIDTH COMMERCIAL AT}",
)
"""With these a spreadsheet takes a text for a formula, white space before them or not."""


def read(context: Context, request: Request) -> Page:
    """Raises ValueError for an address that asks for what cannot be, and SQLAlchemyError."""
    asked = request.query_params
    chosen, sort, is_reversed = asked_for(request)
    after = query.place(asked, "after")
    surveyed = context.surveys.latest() if isinstance(sort, Ranking) else None
    now, branches, following = listed(context, chosen, sort, is_reversed, after, surveyed)
    anywhere = structs.replace(chosen, states=(), is_stale=False, is_in_need=False)
    _, counted = counts(context, anywhere)
    document = {
        "branches": branches,
        "total": _matching(chosen, counted),
        "states": {str(state): count for state, count in counted.states.items()},
        "next": query.placed(following) if following else None,
        "order": {"by": sort, "at": _ordered_at(sort, now, surveyed)},
    }
    extra = {
        "chosen": chosen,
        "asked": {name: asked.get(name, "") for name in ("name", "host", "older")},
        "sort": sort,
        "is_surveyed": isinstance(sort, Ranking),
        "latest": LATEST,
        "is_reversed": is_reversed,
        "all": counted.total,
        "in_need": counted.in_need,
        "stale": counted.stale,
        "is_filtered": bool(chosen.name or chosen.hostname or chosen.older_than),
        "is_first": after is None,
        "change": lambda **changes: query.changed(asked, **changes),
    }
    return Page("branches.html", "Branches", now, document, extra)


def listed(
    context: Context,
    chosen: Filter,
    sort: Order = Sort.ATTENTION,
    is_reversed: bool = False,
    after: list[str] | None = None,
    surveyed: Survey | None = None,
) -> tuple[datetime, list[dict[str, Any]], list[str]]:
    """When it was so, the next branches, and the place of those that follow, if there are any; no
    branches in an order that needs a survey before there is one. Raises ValueError for a place of
    another order, and SQLAlchemyError."""

    def read_page(connection: Connection) -> tuple[datetime, list[dict[str, Any]], list[str]]:
        now, found = _following(
            connection, context, chosen, sort, surveyed, is_reversed, after, PAGE + 1
        )
        shown = found[:PAGE]
        following = shown[-1]["place"] if len(found) > PAGE else []
        return now, with_attempts(connection, shown, now), following

    ordered_at = surveyed and surveyed.at
    key = ("branches", chosen, sort, ordered_at, is_reversed, tuple(after or ()))
    return context.read(key, read_page)


def _following(
    connection: Connection,
    context: Context,
    chosen: Filter,
    sort: Order,
    surveyed: Survey | None,
    is_reversed: bool,
    after: list[str] | None,
    limit: int,
) -> tuple[datetime, list[dict[str, Any]]]:
    """When it was so, and the branches after that place, whichever order it is in."""
    now = database_now(connection)
    options: dict[str, Any] = {
        "is_reversed": is_reversed,
        "after": after,
        "limit": limit,
        "patience": context.settings.patience,
    }
    if isinstance(sort, Sort):
        return now, page(connection, chosen, now, sort=sort, **options)
    if surveyed is None:
        return now, []
    return now, ranked_page(connection, surveyed, sort, chosen, now, **options)


def _ordered_at(sort: Order, now: datetime, surveyed: Survey | None) -> datetime | None:
    if isinstance(sort, Sort):
        return now
    return None if surveyed is None else surveyed.at


def counts(context: Context, chosen: Filter) -> tuple[datetime, Census]:
    """When it was so, and how many branches there are. Raises SQLAlchemyError."""

    def count(connection: Connection) -> tuple[datetime, Census]:
        now = database_now(connection)
        return now, census(connection, chosen, now, patience=context.settings.patience)

    return context.read(("census", chosen), count)


def asked_for(request: Request) -> tuple[Filter, Order, bool]:
    """Which branches, and in which order. Raises ValueError."""
    asked = request.query_params
    chosen = Filter(
        states=query.choices(asked, "state", BranchState),
        name=query.text(asked, "name"),
        hostname=query.text(asked, "host"),
        older_than=query.span(asked, "older"),
        is_stale=query.text(asked, "stale") is not None,
        is_in_need=query.text(asked, "need") is not None,
    )
    sort: Order
    if query.text(asked, "sort") in list(Ranking):
        sort = Ranking(asked["sort"].strip())
    else:
        sort = query.choice(asked, "sort", Sort, Sort.ATTENTION)
    return chosen, sort, bool(query.text(asked, "reverse"))


def as_csv(context: Context, request: Request) -> Iterator[str]:
    """A heading, and all the branches. Raises ValueError before anything is given."""
    chosen, sort, is_reversed = asked_for(request)
    return _lines(context, chosen, sort, is_reversed)


def _lines(context: Context, chosen: Filter, sort: Order, is_reversed: bool) -> Iterator[str]:
    yield _line(COLUMNS)
    surveyed = None
    if isinstance(sort, Ranking):
        surveyed = context.surveys.latest() or survey(context.engine)
    after: list[str] | None = None
    while True:
        # Not one long transaction, which would keep the tables from being vacuumed.
        with context.engine.begin() as connection:
            now, found = _following(
                connection, context, chosen, sort, surveyed, is_reversed, after, CSV_CHUNK
            )
            rows = with_attempts(connection, found, now)
        yield "".join(_line([_cell(row[name]) for name in COLUMNS]) for row in rows)
        if len(found) < CSV_CHUNK:
            return
        after = found[-1]["place"]


def _matching(chosen: Filter, counted: Census) -> int:
    if chosen.is_stale:
        return counted.stale
    if chosen.is_in_need:
        return counted.in_need
    return sum(counted.states[state] for state in chosen.states or BranchState)


def _line(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _cell(value: object) -> object:
    match value:
        case None:
            return ""
        case datetime():
            return timestamp(value)
        case float():
            return round(value, 3)
        case str():
            text = printable_lines(without_secrets(value))
            return "\n".join(map(_inert, text.split("\n")))
        case _:
            return value


def _inert(line: str) -> str:
    """Each line of a cell: a spreadsheet that expects semicolons begins a row with it."""
    return f"'{line}" if line.lstrip().startswith(FORMULA) else line
