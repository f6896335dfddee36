"""The list of branches: the CSV of `mirror-consumer branches import`, with columns of its own."""

import csv
import io
import os
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from mirrorfeed.contract.branch_columns import NEEDED, OF_PULLERS, STATE, URL
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.events import check_branch_id, check_text, shown
from mirrorfeed.puller.errors import BadBranchList

COLUMNS = NEEDED | {URL} | OF_PULLERS | STATE
ALL_REFS = "all"


class Vcs(StrEnum):
    """What a branch is kept in."""

    GIT = "git"
    BZR = "bzr"


class Branch(Struct, frozen=True, gc=False):
    """A line of the list."""

    id: int
    name: str
    url: str
    vcs: Vcs = Vcs.GIT
    interval_seconds: float | None = None
    """How often to mirror it; None for as often as all."""
    has_all_refs: bool = False
    """Whether all of git's references are mirrored, and not only branches and tags."""


class FileState(NamedTuple):
    """By which a changed file is told from the same one."""

    device: int
    inode: int
    size: int
    modified_ns: int


class BranchList(NamedTuple):
    """What is in a file."""

    branches: dict[int, Branch]
    unmirrored: frozenset[int]
    """Branches whose lines have no URL: they are not mirrored from anywhere."""
    file: FileState

    @property
    def without_url(self) -> int:
        """How many these are."""
        return len(self.unmirrored)

    @property
    def ids(self) -> frozenset[int]:
        """All branches of the list, mirrored or not."""
        return self.unmirrored | self.branches.keys()


def read_branch_list(path: Path) -> BranchList:
    """Reads the whole list. Raises BadBranchList, which names the first line that is wrong."""
    branches: dict[int, Branch] = {}
    names: set[str] = set()
    unmirrored: set[int] = set()
    try:
        with path.open("rb") as file:
            state = _state_of(file.fileno())
            text = io.StringIO(file.read().decode("utf-8-sig"), newline="")
        for where, branch in _parse(str(path), csv.reader(text, strict=True)):
            if branch.id in branches:
                raise BadBranchList(f"{where}: id {branch.id} is there twice; keep one line")
            if branch.name in names:
                raise BadBranchList(
                    f"{where}: the name {shown(branch.name)} is there twice; keep one line"
                )
            names.add(branch.name)
            if branch.url:
                branches[branch.id] = branch
            else:
                unmirrored.add(branch.id)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadBranchList(f"{path} cannot be read: {error}") from error
    return BranchList(branches, frozenset(unmirrored), state)


def file_state(path: Path) -> FileState | None:
    """None if there is no such file, or it cannot be looked at."""
    try:
        return _state_of(path)
    except OSError:
        return None


def _state_of(file: int | Path) -> FileState:
    found = os.stat(file)  # noqa: PTH116 - of an open file, too
    return FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _parse(name: str, rows: Iterator[list[str]]) -> Iterator[tuple[str, Branch]]:
    heading = [each.strip() for each in next(rows, [])]
    if not NEEDED | {URL} <= set(heading) <= COLUMNS or len(set(heading)) < len(heading):
        raise BadBranchList(
            f"{name} must begin with a heading of id, unique_name, url and optionally"
            f" {', '.join(sorted(OF_PULLERS))}, each once; got {shown(','.join(heading))}"
        )
    at = {column: heading.index(column) for column in heading}
    for number, row in enumerate(rows, start=2):
        where = f"{name}, line {getattr(rows, 'line_num', number)}"
        if not row:
            continue
        if len(row) != len(heading):
            raise BadBranchList(f"{where}: expected {len(heading)} fields, got {len(row)}")

        def field(column: str, row: list[str] = row) -> str:
            return row[at[column]].strip() if column in at else ""

        if not re.fullmatch(r"[0-9]{1,19}", field("id")):
            raise BadBranchList(f"{where}: id {shown(field('id'))} is not a number")
        try:
            branch = _branch(int(field("id")), row[at["unique_name"]], field)
        except ValueError as error:  # InvalidEvent is one
            raise BadBranchList(f"{where}: {error}") from error
        yield where, branch


def _branch(branch_id: int, name: str, field: Callable[[str], str]) -> Branch:
    """Raises ValueError."""
    check_branch_id(branch_id)
    check_text("unique_name", name, at_least=1)
    url, vcs, interval, refs = (field(each) for each in (URL, "vcs", "interval", "refs"))
    if vcs not in ("", *Vcs):
        raise ValueError(f"vcs {shown(vcs)} is neither git nor bzr")
    if refs not in ("", ALL_REFS):
        raise ValueError(
            f"refs {shown(refs)} is not known: leave it empty for branches and tags, or write all"
        )
    seconds = duration(interval).total_seconds() if interval else None
    if seconds == 0:
        raise ValueError(f"the interval {shown(interval)} is nothing; leave it empty for the usual")
    return Branch(
        branch_id,
        name,
        url,
        Vcs(vcs) if vcs else Vcs.BZR if url.startswith("bzr") else Vcs.GIT,
        seconds,
        refs == ALL_REFS,
    )
