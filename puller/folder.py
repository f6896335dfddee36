"""The folder of the mirrors: what lies where, who may touch it now, and how a mirror appears in it.

17.git, 18.bzr     mirrors, by the number of their branch
.incoming-17       a first mirror that is being made
.removed-17…       what was a mirror, and is being deleted
.puller/           notes, locks, known hosts
"""

import fcntl
import os
import pwd
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from mirrorfeed.contract.events import MAX_BRANCH_ID
from mirrorfeed.puller.errors import FolderInUse, PullerError

OWN = ".puller"
STATE = "state.db"
MAX_DIGITS = 20
_MIRROR = re.compile(r"([1-9][0-9]{0,18})\.(git|bzr)")
_REPLACED, _REMOVED = "-replaced", "-pruned"
"""Of the first, a kill may have left the only good one."""
_REMAINS = re.compile(r"\.(?:incoming|removed)-([1-9][0-9]{0,18})(?:-.*)?")


class MirrorInUse(Exception):
    """Somebody else mirrors this branch right now; the message names the process."""

    def __init__(self, branch_id: int, holder: str) -> None:
        super().__init__(f"branch {branch_id} is being mirrored by process {holder}")
        self.is_alive = not holder.isdecimal() or Path("/proc", holder).exists()
        """Whether the process that took the lock is still there. If not, what it has started is."""


class BadLock(PullerError):
    """A lock that cannot be had, though nobody has it; the disk is full, say."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"the lock {path} cannot be used: {error.strerror}; look after the disk, and who may"
            " write to its folder"
        )
        self.error = error


class Folder:
    """The folder, which is made if it is not there."""

    def __init__(self, path: Path, *, makes: bool = True) -> None:
        """With `makes=False` nothing is made. Raises PullerError."""
        self.path = path.absolute()
        self.own = self.path / OWN
        if makes:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._check_owner()
                self.own.mkdir(mode=0o700, exist_ok=True)
                (self.own / "locks").mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise PullerError(
                    f"the folder {self.path} cannot be used: {error.strerror}; make it, and let"
                    " this user write to it"
                ) from error

    def _check_owner(self) -> None:
        """What root makes in somebody's folder, that user could not use. Raises PullerError."""
        owner = self.path.stat().st_uid
        if os.geteuid() == 0 != owner:
            try:
                name = pwd.getpwuid(owner).pw_name
            except KeyError:
                name = str(owner)
            raise PullerError(
                f"the folder {self.path} belongs to {name}: run this as that user (runuser -u"
                f" {name} -- …)"
            )

    @property
    def state(self) -> Path:
        return self.own / STATE

    def mirror(self, branch_id: int, vcs: str) -> Path:
        return self.path / f"{branch_id}.{vcs}"

    def incoming(self, branch_id: int) -> Path:
        return self.path / f".incoming-{branch_id}"

    def mirrors(self) -> dict[int, list[Path]]:
        """All that are there, by the number of their branch."""
        found: dict[int, list[Path]] = {}
        if self.path.is_dir():
            for each in sorted(self.path.iterdir()):
                if number := _number_in(_MIRROR, each):
                    found.setdefault(number, []).append(each)
        return found

    def remains(self) -> dict[int, list[Path]]:
        """What an attempt or a removal left behind that was killed."""
        found: dict[int, list[Path]] = {}
        for each in self.path.iterdir():
            if number := _number_in(_REMAINS, each):
                found.setdefault(number, []).append(each)
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other puller works through a list into this folder during the block. Raises
        FolderInUse and BadLock."""
        with _locked(self.own / "run.lock") as holder:
            if isinstance(holder, str):
                raise FolderInUse(
                    f"process {holder} mirrors into {self.path} already; wait for it, or end it"
                )
            yield

    @contextmanager
    def only_user_of(self, branch_id: int) -> Iterator[int]:
        """Nobody else touches the branch's mirror during the block.

        Gives an open file that programs must inherit: then they keep the lock if this process is
        killed. Raises MirrorInUse and BadLock.
        """
        with _locked(self.own / "locks" / str(branch_id)) as holder:
            if isinstance(holder, str):
                raise MirrorInUse(branch_id, holder)
            yield holder

    def publish(self, incoming: Path, mirror: Path) -> None:
        """A mirror that is complete takes its place, and is there after a power cut, too.

        If there is a mirror in that place, it is replaced.
        """
        flush(incoming)
        if mirror.exists():
            old = self._aside(mirror, _REPLACED)
            incoming.rename(mirror)
            flush_folder(self.path)
            _delete(old, ignore_errors=True)  # what is left goes at the next start
        else:
            incoming.rename(mirror)
            flush_folder(self.path)

    def remove(self, mirror: Path) -> None:
        """Nobody sees a half of it. Raises OSError."""
        _delete(self._aside(mirror, _REMOVED))

    def restore(self, branch_id: int) -> None:
        """Undoes half a replacement, after a kill or a power cut, and deletes what else is left."""
        for each in self.remains().get(branch_id, []):
            mirror = self.mirror(branch_id, each.suffix.removeprefix("."))
            if each.stem.endswith(_REPLACED) and not mirror.exists():
                each.rename(mirror)
            else:
                _delete(each, ignore_errors=True)

    def _aside(self, mirror: Path, why: str) -> Path:
        branch_id, vcs = mirror.name.split(".")
        old = self.path / f".removed-{branch_id}-{uuid4().hex}{why}.{vcs}"
        mirror.rename(old)
        return old


def _number_in(pattern: re.Pattern[str], path: Path) -> int | None:
    """That of the branch whose files these are; None if they are no branch's."""
    match = pattern.fullmatch(path.name)
    return int(match[1]) if match and int(match[1]) <= MAX_BRANCH_ID else None


def _delete(path: Path, *, ignore_errors: bool = False) -> None:
    """Of a mirror that somebody has put elsewhere, only the link to it."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=ignore_errors)


@contextmanager
def _locked(path: Path) -> Iterator[int | str]:
    """The locked file, or who has locked it. Raises BadLock."""
    with _lock_errors(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with _lock_errors(path):
            holder = _lock(lock)
        if holder is not None:
            yield holder
            return
        try:
            yield lock
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # though a program that was left may have it open
    finally:
        os.close(lock)


def _lock(file: int) -> str | None:
    """Who has locked the file instead; None if it is ours now. Raises OSError."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(file, MAX_DIGITS).decode(errors="replace").strip() or "unknown"
    # As long as any number: making the file shorter first would wait for the disk.
    os.pwrite(file, b"%-*d\n" % (MAX_DIGITS, os.getpid()), 0)
    return None


@contextmanager
def _lock_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadLock(path, error) from error


def size_of(folder: Path) -> int:
    """What its files take, in bytes; what vanishes meanwhile does not count."""
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                total += os.lstat(f"{parent}/{file}").st_blocks * 512
    return total


def flush(folder: Path) -> None:
    """Everything in it is on the disk."""
    for parent, _, files in os.walk(folder):
        for file in files:
            _flush(f"{parent}/{file}", os.O_RDONLY)
        _flush(parent, os.O_RDONLY | os.O_DIRECTORY)


def flush_folder(folder: Path) -> None:
    """The names in it are on the disk."""
    _flush(str(folder), os.O_RDONLY | os.O_DIRECTORY)


def _flush(path: str, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """What is left on its disk for this user."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
