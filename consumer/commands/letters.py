"""How letters and the results of a replay are shown to people and programs, and edited."""

import base64
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import click
from msgspec import to_builtins
from sqlalchemy import Row

from mirrorfeed.consumer.branches.mirror_state import Difference
from mirrorfeed.consumer.commands.differences import as_document, print_differences
from mirrorfeed.consumer.commands.output import has_room, plural, print_table, span
from mirrorfeed.consumer.database import age_seconds, as_json
from mirrorfeed.consumer.dead_letters.body import in_lines, text_of
from mirrorfeed.consumer.dead_letters.replay import Outcome
from mirrorfeed.consumer.errors import ConditionNotMet
from mirrorfeed.consumer.operations.store import Kind, Operation
from mirrorfeed.consumer.operations.words import criteria, described, result_of
from mirrorfeed.contract.printing import print_json, printable
from mirrorfeed.contract.wire import MAX_BODY_BYTES, timestamp

SHOWN_LETTERS = 100
"""How much of a long list a person is shown; programs get all of it."""
SHOWN_BYTES = MAX_BODY_BYTES
"""How much of a message a person is shown: all of it, if it could be an event."""


def show_list(found: list[Row[Any]], total: int) -> None:
    deliveries = ("deliveries",) if has_room() else ()
    print_table(
        ("id", "age", "reason", "type", "branch", *deliveries, "detail"),
        [
            (
                letter.id,
                span(age(letter.first_seen_at)),
                letter.reason,
                letter.type,
                letter.branch_id,
                *([letter.attempts] if deliveries else []),
                letter.detail,
            )
            for letter in found
        ],
        shorten=("type", "detail"),
        empty="no letters",
    )
    if total > len(found):
        print(f"{total - len(found):,} more: see --group, --json or --limit", file=sys.stderr)


def show_groups(groups: list[Row[Any]], as_json_document: bool) -> None:
    if as_json_document:
        print_json({"groups": [as_json(group._asdict()) for group in groups]})
        return
    counted = ("letters", "oldest", "newest", "first_id")
    names = [name for name in (groups[0]._fields if groups else ()) if name not in counted]
    print_table(
        ("letters", *names, "oldest", "newest", "first id"),
        [
            (
                group.letters,
                *(
                    "none" if group._mapping[name] is None else group._mapping[name]
                    for name in names
                ),
                span(age(group.oldest)),
                span(age(group.newest)),
                group.first_id,
            )
            for group in groups
        ],
        empty="no letters",
    )


def show_overflow(groups: list[Row[Any]], as_json_document: bool) -> None:
    if as_json_document:
        print_json({"overflow": [as_json(group._asdict()) for group in groups]})
        return
    has_notes = any(group.note is not None for group in groups)
    print_table(
        (
            "messages",
            "source",
            "reason",
            "first seen",
            "last seen",
            *(["note"] if has_notes else []),
        ),
        [
            (
                group.messages,
                group.source or "none that could be read",
                group.reason,
                group.first_seen_at,
                group.last_seen_at,
                *([group.note] if has_notes else []),
            )
            for group in groups
        ],
        empty="every message that could not be applied was kept",
    )


def first_bytes(as_json_document: bool) -> int | None:
    """How much of a message `show_letter` needs; None if all of it."""
    return None if as_json_document else SHOWN_BYTES


def show_letter(letter: Row[Any], as_json_document: bool) -> None:
    fields = document(letter)
    if as_json_document:
        print_json(fields)
        return
    for name, value in fields.items():
        if value is not None and "body" not in name:
            print(f"{name}: {printable(str(value))}")
    print(f"\n{readable(letter.body)}{_rest(letter.id, letter.body, letter.body_bytes)}")
    if letter.original_body is not None:
        rest = _rest(letter.id, letter.original_body, letter.original_body_bytes)
        print(f"\nas delivered:\n{readable(letter.original_body)}{rest}")


def _rest(letter_id: int, shown: bytes, size_bytes: int) -> str:
    """What is said of the bytes that are not shown."""
    if len(shown) == size_bytes:
        return ""
    return (
        f"\n\nonly the first {len(shown):,} of {size_bytes:,} bytes are shown:"
        f" mirror-replay export {letter_id} has all of them"
    )


def show_outcomes(
    outcomes: list[Outcome],
    skipped: int,
    as_json_document: bool,
    changes: list[Difference] | None = None,
) -> None:
    """With `changes` it was a dry run, and these are what would have changed."""
    dry_run = changes is not None
    counts = Counter(each.outcome for each in outcomes)
    totals = {outcome: counts[outcome] for outcome in ("applied", "unchanged", "dead")}
    if as_json_document:
        dry = {"dry_run": True, "branches": as_document(changes)} if changes is not None else {}
        print_json({**totals, "skipped": skipped, "letters": to_builtins(outcomes), **dry})
        return
    print_differences(changes or [])
    dead = [each for each in outcomes if each.outcome == "dead"]
    print_table(
        ("dead", "reason", "detail"),
        [(each.id, each.reason, each.detail) for each in dead[:SHOWN_LETTERS]],
    )
    would = "dry run: " if dry_run else ""
    print(
        f"{would}{totals['applied']:,} applied, {totals['unchanged']:,} already known,"
        f" {totals['dead']:,} still dead"
    )
    if skipped:
        print(f"{plural(skipped, 'letter')} skipped: another operator is working on them")


def show_operations(found: list[Operation]) -> None:
    print_table(
        ("operation", "began", "by", "what", "selected", "state", "result"),
        [
            (
                each.id,
                timestamp(each.created_at),
                each.actor,
                described(each),
                "" if each.kind is Kind.REPARTITION else criteria(each),
                each.state,
                result_of(each),
            )
            for each in found
        ],
    )


def edited(letter: Row[Any]) -> bytes:
    """The body as the operator changed it in their editor."""
    if letter.body_bytes > len(letter.body):
        raise ConditionNotMet(
            f"the body is {letter.body_bytes} bytes, too large to edit: write the new one to a"
            " file, and give --body-file"
        )
    text = text_of(bytes(letter.body))
    if text is None:
        raise ConditionNotMet(
            "the body is not UTF-8: write the new one to a file, and give --body-file"
        )
    try:
        new = click.edit(in_lines(text), extension=".json")
    except click.ClickException as error:
        raise ConditionNotMet(f"{error.message}; set $EDITOR, or give --body-file") from error
    except UnicodeDecodeError as error:
        raise ConditionNotMet(
            f"the editor did not save UTF-8 ({error}): give --body-file"
        ) from error
    if new is None:
        raise ConditionNotMet(f"nothing was changed: letter {letter.id} is as it was")
    return new.strip().encode()


def document(letter: Row[Any]) -> dict[str, Any]:
    """A letter for programs: bytes as text if they are UTF-8, and always as base64."""
    fields: dict[str, Any] = {"age_seconds": age(letter.first_seen_at)}
    for name, value in as_json(letter._asdict()).items():
        if not name.endswith("body"):
            fields[name] = value
        elif value is not None:
            body = bytes(value)
            fields[name] = text_of(body)
            fields[f"{name}_base64"] = base64.b64encode(body).decode()
    return fields


def readable(body: bytes) -> str:
    """For a person: indented JSON, with no control characters for the terminal."""
    text = text_of(bytes(body))
    if text is None:
        return f"{bytes(body)!r} (not UTF-8)"
    return "\n".join(printable(line) for line in in_lines(text).split("\n"))


def age(since: datetime) -> float:
    """Seconds by this host's clock."""
    return age_seconds(datetime.now(UTC), since)
