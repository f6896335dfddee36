"""Files of branches: CSV with a heading, as people and other systems write them."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import BinaryIO

from mirrorfeed.consumer.branches.register import NewBranch
from mirrorfeed.consumer.branches.takeover import KnownState
from mirrorfeed.consumer.errors import BadBranchFile
from mirrorfeed.contract.branch_columns import NEEDED, OF_PULLERS, STATE, URL
from mirrorfeed.contract.events import InvalidEvent, shown

COLUMNS = NEEDED | {URL} | STATE | OF_PULLERS


def read_branches(file: BinaryIO, name: str, *, not_after: datetime) -> list[NewBranch]:
    """Reads CSV with a heading: id, unique_name and, optionally, url and the mirror columns of the
    branch table, which are taken over. How the puller mirrors a branch is passed over.

    Raises BadBranchFile, which calls the file `name`; also for a time later than `not_after`.
    """
    try:
        text = io.StringIO(file.read().decode("utf-8-sig"), newline="")
        return list(_parse(name, csv.DictReader(text, strict=True), not_after))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadBranchFile(f"{name} cannot be read: {error}") from error


def _parse(name: str, rows: "csv.DictReader[str]", not_after: datetime) -> Iterator[NewBranch]:
    heading = list(rows.fieldnames or ())
    if not NEEDED <= set(heading) <= COLUMNS:
        raise BadBranchFile(
            f"{name} must begin with a heading of id, unique_name and optionally url,"
            f" {', '.join(KnownState.__struct_fields__)}; got {shown(','.join(heading))}"
        )
    if repeated := sorted({column for column in heading if heading.count(column) > 1}):
        raise BadBranchFile(
            f"the heading of {name} has {', '.join(repeated)} more than once:"
            f" {shown(','.join(heading))}; keep one"
        )
    has_states = not STATE.isdisjoint(heading)
    for row in rows:
        where = f"{name}, line {rows.line_num}"
        if None in row or None in row.values():
            raise BadBranchFile(f"{where}: expected {len(heading)} fields")
        if not re.fullmatch(r"\s*[0-9]{1,19}\s*", row["id"]):
            raise BadBranchFile(f"{where}: id {shown(row['id'])} is not a number")
        try:
            state = _state(row, not_after) if has_states else None
            yield NewBranch(int(row["id"]), row["unique_name"], row.get("url") or None, state)
        except InvalidEvent as error:
            raise BadBranchFile(f"{where}: {error}") from error


def _state(row: Mapping[str, str], not_after: datetime) -> KnownState:
    given = {name: row[name].strip() for name in STATE if row.get(name, "").strip()}
    failures = given.get("mirror_failures", "0")
    if not re.fullmatch(r"[0-9]{1,9}", failures):
        raise InvalidEvent(f"mirror_failures {shown(failures)} is not a number")
    state = KnownState(
        last_mirror_attempt=_instant("last_mirror_attempt", given),
        last_mirrored=_instant("last_mirrored", given),
        last_mirrored_id=given.get("last_mirrored_id"),
        mirror_failures=int(failures),
        mirror_status_message=given.get("mirror_status_message"),
    )
    latest = state.last_mirror_attempt  # no success is later
    if latest is not None and latest > not_after:
        raise InvalidEvent(
            f"last_mirror_attempt {shown(given['last_mirror_attempt'])} lies in the future, and"
            " would hide every success until then: correct it"
        )
    return state


def _instant(field: str, given: Mapping[str, str]) -> datetime | None:
    if field not in given:
        return None
    try:
        return datetime.fromisoformat(given[field])
    except ValueError:
        raise InvalidEvent(
            f"{field} {shown(given[field])} is not a time such as 2007-07-05 19:32:01+00"
        ) from None
