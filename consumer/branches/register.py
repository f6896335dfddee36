"""Registering branches. An event about any other branch goes to `dead_letter`."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, insert, or_, select
from sqlalchemy.exc import IntegrityError

from mirrorfeed.consumer.branches.takeover import KnownState
from mirrorfeed.consumer.database import first_line
from mirrorfeed.consumer.errors import BadBranchFile, BranchConflict
from mirrorfeed.consumer.tables import Branch
from mirrorfeed.contract.events import InvalidEvent, check_branch_id, check_text, shown
from mirrorfeed.contract.secrets import mask_secrets

COLUMNS = {"id", "unique_name", "url"}
STATE_COLUMNS = set(KnownState.__struct_fields__)


class NewBranch(Struct, frozen=True):
    """A branch to register. Raises InvalidEvent for values that no branch can have."""

    id: int
    unique_name: str
    url: str | None = None
    state: KnownState | None = None
    """What another system knew of it."""

    def __post_init__(self) -> None:
        check_branch_id(self.id)
        check_text("unique_name", self.unique_name, at_least=1)
        if self.url is not None:
            check_text("url", self.url, at_least=1)


def register(connection: Connection, branches: Sequence[NewBranch]) -> int:
    """Registers the branches that are new, and returns how many there were.

    Raises BranchConflict, having registered none, if one differs from what is registered.
    """
    known = connection.execute(
        select(Branch.id, Branch.unique_name, Branch.url).where(
            or_(
                Branch.id.in_([branch.id for branch in branches]),
                Branch.unique_name.in_([branch.unique_name for branch in branches]),
            )
        )
    )
    by_id: dict[int, Any] = {}
    by_name: dict[str, Any] = {}
    for row in known:
        by_id[row.id] = by_name[row.unique_name] = row
    new: list[NewBranch] = []
    conflicts: list[str] = []
    for branch in branches:
        other = by_id.get(branch.id) or by_name.get(branch.unique_name)
        if other is None:
            new.append(branch)
            by_id[branch.id] = by_name[branch.unique_name] = branch
        elif not _is_same(branch, other):
            conflicts.append(
                f"branch {_shown(branch)} conflicts with registered branch {_shown(other)}"
            )
    if conflicts:
        raise BranchConflict("\n".join(conflicts))
    if new:
        try:
            connection.execute(
                insert(Branch),
                [{"id": each.id, "unique_name": each.unique_name, "url": each.url} for each in new],
            )
        except IntegrityError as error:
            raise BranchConflict(
                f"somebody else registered one meanwhile: {first_line(error)}"
            ) from error
    return len(new)


def read_branches(path: Path) -> list[NewBranch]:
    """Reads CSV with a heading: id, unique_name and, optionally, url and the mirror columns of the
    branch table, which are taken over. Raises BadBranchFile."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_parse(path, csv.DictReader(file, strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadBranchFile(f"{path} cannot be read: {error}") from error


def _is_same(branch: NewBranch, other: Any) -> bool:
    return (branch.id, branch.unique_name, branch.url or other.url) == (
        other.id,
        other.unique_name,
        other.url,
    )


def _shown(branch: Any) -> str:
    return f"{branch.id} {branch.unique_name!r} {mask_secrets(branch.url or '(no URL)')}"


def _parse(path: Path, rows: "csv.DictReader[str]") -> Iterator[NewBranch]:
    heading = set(rows.fieldnames or ())
    if not {"id", "unique_name"} <= heading <= COLUMNS | STATE_COLUMNS:
        raise BadBranchFile(
            f"{path} must begin with a heading of id, unique_name and optionally url,"
            f" {', '.join(KnownState.__struct_fields__)};"
            f" got {shown(','.join(rows.fieldnames or ()))}"
        )
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        if None in row or None in row.values():
            raise BadBranchFile(f"{where}: expected {len(heading)} fields")
        if not re.fullmatch(r"\s*[0-9]{1,19}\s*", row["id"]):
            raise BadBranchFile(f"{where}: id {shown(row['id'])} is not a number")
        try:
            state = _state(row) if heading & STATE_COLUMNS else None
            yield NewBranch(int(row["id"]), row["unique_name"], row.get("url") or None, state)
        except InvalidEvent as error:
            raise BadBranchFile(f"{where}: {error}") from error


def _state(row: Mapping[str, str]) -> KnownState:
    given = {name: row[name].strip() for name in STATE_COLUMNS if row.get(name, "").strip()}
    failures = given.get("mirror_failures", "0")
    if not re.fullmatch(r"[0-9]{1,9}", failures):
        raise InvalidEvent(f"mirror_failures {shown(failures)} is not a number")
    return KnownState(
        last_mirror_attempt=_instant("last_mirror_attempt", given),
        last_mirrored=_instant("last_mirrored", given),
        last_mirrored_id=given.get("last_mirrored_id"),
        mirror_failures=int(failures),
        mirror_status_message=given.get("mirror_status_message"),
    )


def _instant(field: str, given: Mapping[str, str]) -> datetime | None:
    if field not in given:
        return None
    try:
        return datetime.fromisoformat(given[field])
    except ValueError:
        raise InvalidEvent(
            f"{field} {shown(given[field])} is not a time such as 2007-07-05 19:32:01+00"
        ) from None
