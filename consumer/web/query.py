"""What the address of a page asks for."""

import base64
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar
from urllib.parse import urlencode

import msgspec
from starlette.datastructures import ImmutableMultiDict

from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.events import MAX_BRANCH_ID, shown

E = TypeVar("E", bound=StrEnum)
Given = ImmutableMultiDict[str, str]
"""The parts of an address, or the fields of a form."""

MOST_CHARACTERS = 1024


def text(query: Given, name: str, most: int = MOST_CHARACTERS) -> str | None:
    """None if it is missing or empty, as from a field that was left so. Raises ValueError."""
    value = query.get(name, "").strip()
    if "\0" in value or len(value) > most:
        raise ValueError(f"{name} cannot be asked for: it is too long, or has a NUL")
    return value or None


def choice(query: Given, name: str, kind: type[E], default: E) -> E:
    """Raises ValueError for a value that is none of them."""
    value = text(query, name)
    return default if value is None else _member(kind, name, value)


def choices(query: Given, name: str, kind: type[E]) -> tuple[E, ...]:
    """All that are given. Raises ValueError for a value that is none of them."""
    return tuple(_member(kind, name, value) for value in query.getlist(name) if value)


def span(query: Given, name: str) -> timedelta | None:
    """A duration such as 6h. Raises ValueError."""
    value = text(query, name)
    return None if value is None else duration(value)


def number(query: Given, name: str) -> int | None:
    """A number that an id may be. Raises ValueError."""
    value = text(query, name)
    return None if value is None else identifier(name, value)


def identifier(name: str, value: str) -> int:
    """Raises ValueError for what no id can be."""
    if not (value.isascii() and value.isdecimal() and 0 < len(value) <= 19):
        raise ValueError(f"{name} {shown(value)} is not a number")
    if int(value) > MAX_BRANCH_ID:
        raise ValueError(f"{name} {value} is more than {MAX_BRANCH_ID}")
    return int(value)


def instant(query: Given, name: str) -> datetime | None:
    """Raises ValueError."""
    value = text(query, name)
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise ValueError(f"{name} {shown(value)} is not a time such as 2026-07-05T19:32:00+00:00")
    return parsed


def place(query: Given, name: str) -> list[str] | None:
    """From where a list goes on. Raises ValueError for what `placed` never gave."""
    value = text(query, name)
    if value is None:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(value), type=list[str])
    except (ValueError, msgspec.DecodeError):
        raise ValueError("the place to go on from cannot be read: begin again") from None


def placed(values: Sequence[str]) -> str:
    """The place for an address."""
    return base64.urlsafe_b64encode(msgspec.json.encode(list(values))).decode()


def changed(query: Given, **changes: str | None) -> str:
    """The query with other values; what is None is left out, and so is the place in a list."""
    given = [
        (name, value)
        for name, value in query.multi_items()
        if value and name not in changes and name not in ("after", "before")
    ]
    given += [(name, value) for name, value in changes.items() if value is not None]
    return f"?{urlencode(given)}" if given else ""


def _member(kind: type[E], name: str, value: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name} {shown(value)} is none of {', '.join(kind)}") from None
