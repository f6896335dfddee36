"""Letters: what could not be applied, grouped and as a list, and one of them whole."""

import hashlib
import shlex
from typing import Any

import msgspec
from sqlalchemy import Connection, Row
from starlette.requests import Request

from mirrorfeed.consumer.database import database_now
from mirrorfeed.consumer.dead_letters import store
from mirrorfeed.consumer.dead_letters.body import in_lines, text_of
from mirrorfeed.consumer.dead_letters.runbook import RUNBOOK
from mirrorfeed.consumer.dead_letters.store import GroupBy, LetterState, Selection
from mirrorfeed.consumer.operations.store import Kind
from mirrorfeed.consumer.sources.overflow import OverflowSelection, group_overflow
from mirrorfeed.consumer.web import query
from mirrorfeed.consumer.web.context import Context, Page, without_secrets
from mirrorfeed.contract.printing import printable, printable_lines
from mirrorfeed.contract.reasons import Reason
from mirrorfeed.contract.secrets import masked_start
from mirrorfeed.contract.wire import MAX_BODY_BYTES

PAGE = 50
SHOWN_GROUPS = 100
SHOWN_BYTES = MAX_BODY_BYTES
"""How much of a body is shown: all of it, if it could be an event."""
ACTIONS = {
    LetterState.DEAD: (Kind.APPLY, Kind.DISCARD),
    LetterState.DISCARDED: (Kind.RESTORE,),
}
"""What may be done with letters in a state."""
MOST_IDS = 50
"""So many letters are named one by one in a command."""


def read(context: Context, request: Request) -> Page:
    """Raises ValueError for an address that asks for what cannot be, and SQLAlchemyError."""
    asked = request.query_params
    selection = selection_of(asked, query.choice(asked, "state", LetterState, LetterState.DEAD))
    by = query.choice(asked, "by", GroupBy, GroupBy.REASON) if query.text(asked, "by") else None
    before = query.number(asked, "before")
    groups = grouped(context, selection, by)

    def read_list(connection: Connection) -> tuple[Any, ...]:
        wanted = msgspec.structs.replace(selection, limit=PAGE + 1)
        return (
            database_now(connection),
            [dict(row._mapping) for row in store.latest(connection, wanted, before_id=before)],
            [dict(row._mapping) for row in group_overflow(connection, OverflowSelection())],
        )

    now, found, overflow = context.read(("letters", selection, before), read_list)
    shown = found[:PAGE]
    total = sum(group.letters for group in groups)
    document = {
        "letters": shown,
        "total": total,
        "groups": [dict(group._mapping) for group in groups[:SHOWN_GROUPS]],
        "more_groups": max(0, len(groups) - SHOWN_GROUPS),
        "next": str(shown[-1]["id"]) if len(found) > PAGE else None,
        "overflow": overflow,
    }
    is_whole = before is None and len(found) <= MOST_IDS
    ids = [letter["id"] for letter in shown] if is_whole else []
    extra = {
        "selection": selection,
        "by": by,
        "keys": _keys(by),
        "is_first": before is None,
        "is_filtered": selection != Selection(state=selection.state),
        "commands": commands(selection, ids) if total else [],
        "actions": ACTIONS.get(selection.state, ()),
        "fields": _fields(selection),
        "states": list(LetterState),
        "reasons": list(Reason),
        "change": lambda **changes: query.changed(asked, **changes),
    }
    return Page("letters.html", "Letters", now, document, extra)


def grouped(context: Context, selection: Selection, by: GroupBy | None = None) -> list[Row[Any]]:
    """The groups of these letters. Raises SQLAlchemyError."""
    return context.read(
        ("letter groups", selection, by),
        lambda connection: store.group(connection, selection, by),
        fresh_seconds=3.0,
    )


def selection_of(given: query.Given, state: LetterState) -> Selection:
    """Which letters an address or a form asks for. Raises ValueError."""
    return Selection(
        source=query.text(given, "source"),
        reason=query.choice(given, "reason", Reason, Reason.INVALID)
        if query.text(given, "reason")
        else None,
        type=query.text(given, "type"),
        branch_id=query.number(given, "branch"),
        host=query.text(given, "host"),
        like_id=query.number(given, "like"),
        state=state,
    )


def read_one(context: Context, request: Request) -> Page:
    """Raises LetterError, ValueError for what is no id, and SQLAlchemyError."""
    letter_id = query.identifier("the letter", request.path_params["letter_id"])

    def read_letter(connection: Connection) -> tuple[Any, ...]:
        return (
            database_now(connection),
            dict(store.get(connection, letter_id, first_bytes=SHOWN_BYTES)._mapping),
        )

    now, letter = context.read(("letter", letter_id), read_letter)
    bodies = {
        name: _body(letter[name], letter[f"{name}_bytes"])
        for name in ("body", "original_body")
        if letter[name] is not None
    }
    fields = {name: value for name, value in letter.items() if name not in bodies}
    advice = RUNBOOK.get(Reason(letter["reason"])) if letter["reason"] in list(Reason) else None
    document = {
        "letter": {**fields, "original_body": None, **bodies},
        "advice": advice and _filled_in(msgspec.to_builtins(advice), letter),
    }
    headers = msgspec.json.format(msgspec.json.encode(letter["headers"]), indent=2).decode()
    extra = {
        "headers": masked_start(headers, SHOWN_BYTES) if letter["headers"] else None,
        "commands": _commands_of(letter),
        "actions": ACTIONS.get(letter["state"], ()),
        "draft": _draft(letter),
        "version": version_of(letter),
        "said": None,
        "is_good": False,
    }
    return Page("letter.html", f"Letter {letter_id}", now, document, extra)


def version_of(letter: dict[str, Any]) -> str:
    """Another one once somebody has changed the body that a page shows. A digest of what it hides
    would tell that to whoever guesses it, so secrets are masked before."""
    shown: str = without_secrets(bytes(letter["body"]).decode(errors="replace"))
    return hashlib.sha256(f"{letter['body_bytes']} {shown}".encode()).hexdigest()


def commands(selection: Selection, ids: list[int]) -> list[str]:
    """What an operator types for these letters; nothing if no command selects just them. `ids` are
    all of them, if these are few."""
    options = _options(selection, ids)
    if options is None:
        return []
    match selection.state:
        case LetterState.DEAD:
            return [
                f"mirror-replay apply {options} --dry-run",
                f"mirror-replay apply {options}",
                f"mirror-replay discard {options} --note TEXT",
            ]
        case LetterState.DISCARDED:
            return [f"mirror-replay restore {options}"]
        case LetterState.REPLAYED:
            return []


def _fields(selection: Selection) -> list[tuple[str, str]]:
    """The fields of a form that select the same letters."""
    given = {
        "source": selection.source,
        "reason": selection.reason,
        "type": selection.type,
        "branch": selection.branch_id,
        "host": selection.host,
        "like": selection.like_id,
    }
    return [(name, str(value)) for name, value in given.items() if value is not None]


def _options(selection: Selection, ids: list[int]) -> str | None:
    if selection.host is not None or selection.like_id is not None:
        return " ".join(map(str, ids)) or None
    given = {
        "--source": selection.source,
        "--reason": selection.reason,
        "--type": selection.type,
        "--branch": selection.branch_id,
    }
    words = [
        word
        for option, value in given.items()
        if value is not None
        for word in (option, str(value))
    ]
    # What cannot be shown cannot be copied either.
    return printable(shlex.join(words)) if words else "--all"


def _commands_of(letter: dict[str, Any]) -> list[str]:
    match letter["state"]:
        case LetterState.DEAD:
            return [
                f"mirror-replay apply {letter['id']} --dry-run",
                f"mirror-replay apply {letter['id']}",
                f"mirror-replay edit {letter['id']}",
                f"mirror-replay discard {letter['id']} --note TEXT",
            ]
        case LetterState.DISCARDED:
            return [f"mirror-replay restore {letter['id']}"]
        case _:
            return []


def _keys(by: GroupBy | None) -> list[str]:
    """What a group has in common: columns of a group, and parts of an address."""
    return ["reason", "error"] if by is None else [str(by)]


def _body(body: bytes, size_bytes: int) -> dict[str, Any]:
    """The beginning of a message as text, without secrets; `is_text` unless it is not UTF-8."""
    is_cut = len(body) < size_bytes
    # The last character may be cut in two.
    text = next(
        (
            text
            for cut in range(4 if is_cut else 1)
            if (text := text_of(bytes(body)[: len(body) - cut])) is not None
        ),
        None,
    )
    is_text = text is not None
    shown = repr(bytes(body))[2:-1] if text is None else in_lines(text)
    return {
        "text": masked_start(shown, 4 * SHOWN_BYTES),
        "is_text": is_text,
        "shown_bytes": len(body),
        "size_bytes": size_bytes,
    }


def _draft(letter: dict[str, Any]) -> str | None:
    """The body to begin an edit with; None if a page cannot show all of it."""
    body = bytes(letter["body"])
    text = text_of(body) if len(body) == letter["body_bytes"] else None
    if letter["state"] != LetterState.DEAD or text is None:
        return None
    lines = in_lines(text)
    return lines if printable_lines(lines) == lines else None


def _filled_in(advice: dict[str, str], letter: dict[str, Any]) -> dict[str, str]:
    """The commands as they are for this letter."""
    remedy = advice["remedy"]
    if letter["branch_id"] is not None:
        remedy = remedy.replace("404", str(letter["branch_id"]))
    remedy = remedy.replace(" ID", f" {letter['id']}")
    return {"meaning": advice["meaning"], "remedy": remedy}
