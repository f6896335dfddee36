"""The register: which branches there are. An event about any other goes to `dead_letter`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Text, bindparam, cast, delete, func, insert, select, text
from sqlalchemy import update as update_rows
from sqlalchemy.exc import IntegrityError

from mirrorfeed.consumer.apply.projection import lock_branches
from mirrorfeed.consumer.branches.mirror_state import Difference
from mirrorfeed.consumer.branches.takeover import KnownState
from mirrorfeed.consumer.database import first_line
from mirrorfeed.consumer.errors import BranchConflict, UnknownBranches
from mirrorfeed.consumer.tables import Branch, MirrorAttempt
from mirrorfeed.contract.events import check_branch_id, check_text, shown
from mirrorfeed.contract.secrets import mask_secrets

SHOWN_CONFLICTS = 10
REGISTERED = select(Branch.id, Branch.unique_name, Branch.url).order_by(Branch.id)
REMEDY = (
    "to change what is registered: mirror-consumer branches update, rename, or import --update"
    " (with --dry-run it only shows what it would change)"
)
WITH_ID_OR_NAME = text("""
    SELECT id, unique_name, url FROM branch WHERE id = ANY(CAST(:ids AS bigint[]))
    UNION
    SELECT id, unique_name, url FROM branch WHERE unique_name = ANY(CAST(:names AS text[]))
""")


class NewBranch(Struct, frozen=True):
    """A branch as it is to be registered. Raises InvalidEvent for what no branch can have."""

    id: int
    unique_name: str
    url: str | None = None
    """None says nothing about it; the empty string says that there is none."""
    state: KnownState | None = None
    """What another system knew of it."""

    def __post_init__(self) -> None:
        check_branch_id(self.id)
        check_text("unique_name", self.unique_name, at_least=1)
        if self.url is not None:
            check_text("url", self.url)


class Entry(Struct, frozen=True):
    """A branch as it is registered."""

    id: int
    unique_name: str
    url: str | None


class Registration(Struct, frozen=True):
    """What `register` did: branches in neither list were registered just so before."""

    new: Sequence[NewBranch]
    changed: Sequence[Difference]


class History(Struct, frozen=True):
    """How many attempts a branch has, and when the first and the last of them started."""

    attempts: int
    first_attempt_at: datetime | None
    last_attempt_at: datetime | None


def entries(connection: Connection) -> list[Entry]:
    """All branches, by id."""
    return [Entry(*row) for row in connection.execute(REGISTERED)]


def find(connection: Connection, id_or_name: str, *, lock: bool = False) -> Entry:
    """One branch. What consists of digits is taken for an id, anything else for a name.

    Raises UnknownBranches, and InvalidEvent for a number that no branch can have.
    """
    if re.fullmatch(r"[0-9]{1,19}", id_or_name):
        check_branch_id(int(id_or_name))
        query = REGISTERED.where(Branch.id == int(id_or_name))
    else:
        check_text("unique_name", id_or_name)
        query = REGISTERED.where(Branch.unique_name == id_or_name)
    if lock:
        query = query.with_for_update(key_share=True)
    row = connection.execute(query).one_or_none()
    if row is None:
        asked = id_or_name if id_or_name.isdecimal() else shown(id_or_name)
        raise UnknownBranches(
            f"branch {asked} is not registered: mirror-consumer branches list shows those that are"
        )
    return Entry(*row)


def history(connection: Connection, branch_id: int) -> History:
    started_at = MirrorAttempt.started_at
    query = select(func.count(), func.min(started_at), func.max(started_at))
    return History(*connection.execute(query.where(MirrorAttempt.branch_id == branch_id)).one())


def register(
    connection: Connection, branches: Iterable[NewBranch], *, update: bool = False
) -> Registration:
    """Registers the branches that are new. With `update`, gives those that differ from what is
    registered their name and URL; branches may swap names.

    Raises BranchConflict, having changed nothing, if one differs and `update` is false, if another
    branch has its name, or if two of these contradict each other.
    """
    branches = list(branches)
    wanted = {branch.id: branch for branch in branches}
    known = _known(connection, branches)
    new = [branch for branch in wanted.values() if branch.id not in known]
    changes = [
        change
        for branch in wanted.values()
        if branch.id in known
        and (change := _change_of(known[branch.id], branch)).before != change.after
    ]
    conflicts = [
        f"branch {_shown(branch)} conflicts with branch {_shown(wanted[branch.id])}"
        for branch in branches
        if branch != wanted[branch.id]
    ]
    conflicts += _taken_names(wanted, known)
    if changes and not update:
        conflicts += [
            f"branch {_shown(wanted[change.branch_id])} conflicts with registered branch"
            f" {_shown(known[change.branch_id])}"
            for change in changes
        ]
    if conflicts:
        if omitted := conflicts[SHOWN_CONFLICTS:]:
            conflicts[SHOWN_CONFLICTS:] = [f"and {len(omitted):,} more"]
        if changes and not update:
            conflicts.append(REMEDY)
        raise BranchConflict("\n".join(conflicts))
    try:
        _change(connection, changes)
        if new:
            connection.execute(
                insert(Branch),
                [
                    {"id": each.id, "unique_name": each.unique_name, "url": each.url or None}
                    for each in new
                ],
            )
    except IntegrityError as error:
        raise BranchConflict(
            f"somebody else registered one meanwhile: {first_line(error)}"
        ) from error
    return Registration(new, changes)


def remove(connection: Connection, branches: Sequence[Entry]) -> int:
    """Removes branches with all their attempts, and returns how many these were. Letters about them
    and the ledger stay; events that come later find no branch.

    Raises BranchConflict, having removed nothing, if one is no longer as it was read.
    """
    before = {entry.id: _columns(entry) for entry in branches}
    _lock(connection, before)
    attempts = delete(MirrorAttempt).where(MirrorAttempt.branch_id.in_(before))
    deleted = connection.execute(attempts).rowcount
    connection.execute(delete(Branch).where(Branch.id.in_(before)))
    return deleted


def _known(connection: Connection, branches: Sequence[NewBranch]) -> dict[int, Entry]:
    """The registered branches that have an id or a name of these."""
    given = {
        "ids": [branch.id for branch in branches],
        "names": [branch.unique_name for branch in branches],
    }
    return {row.id: Entry(*row) for row in connection.execute(WITH_ID_OR_NAME, given)}


def _change_of(entry: Entry, branch: NewBranch) -> Difference:
    url = entry.url if branch.url is None else branch.url or None
    after = {"unique_name": branch.unique_name, "url": url}
    return Difference(branch.id, _columns(entry), after)


def _taken_names(wanted: Mapping[int, NewBranch], known: Mapping[int, Entry]) -> Iterator[str]:
    owners: dict[str, Any] = {
        row.unique_name: row for row in known.values() if row.id not in wanted
    }
    for branch in wanted.values():
        owner = owners.setdefault(branch.unique_name, branch)
        if owner is not branch:
            registered = "" if owner.id in wanted else "registered "
            yield (
                f"branch {_shown(branch)} conflicts with {registered}branch {_shown(owner)}: only"
                " one can have that name"
            )


def _change(connection: Connection, changes: Sequence[Difference]) -> None:
    if not changes:
        return
    _lock(connection, {change.branch_id: change.before for change in changes})
    names = {change.after["unique_name"] for change in changes}
    if swapped := [
        change.branch_id
        for change in changes
        if change.before["unique_name"] != change.after["unique_name"]
        and change.before["unique_name"] in names
    ]:
        # PostgreSQL compares names row by row: nobody may have the old one when it is given away.
        unlike_any = cast(func.gen_random_uuid(), Text)
        connection.execute(
            update_rows(Branch).where(Branch.id.in_(swapped)).values(unique_name=unlike_any)
        )
    connection.execute(
        update_rows(Branch)
        .where(Branch.id == bindparam("changed_id"))
        .values(unique_name=bindparam("new_name"), url=bindparam("new_url")),
        [
            {
                "changed_id": change.branch_id,
                "new_name": change.after["unique_name"],
                "new_url": change.after["url"],
            }
            for change in changes
        ],
    )


def _lock(connection: Connection, before: Mapping[int, Mapping[str, Any]]) -> None:
    """Keeps others off these branches. Raises BranchConflict if one is no longer like this."""
    lock_branches(connection, before.keys())
    rows = connection.execute(REGISTERED.where(Branch.id.in_(before)))
    if {row.id: _columns(Entry(*row)) for row in rows} != before:
        raise BranchConflict("somebody else changed the register meanwhile: look again")


def _columns(branch: Entry) -> dict[str, Any]:
    return {"unique_name": branch.unique_name, "url": branch.url}


def _shown(branch: Entry | NewBranch) -> str:
    url = mask_secrets(branch.url) if branch.url else "(no URL)"
    return f"{branch.id} {shown(branch.unique_name)} {url}"
