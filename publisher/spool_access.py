"""Who may use a spool: the modes of its files, and what others are told.

Reasons may hold what is not for everybody, and a lock needs no more than the right to read. So a
spool is its user's alone, unless its folder is shared by a group.
"""

import os
import pwd
import stat
from pathlib import Path

from mirrorfeed.contract import environment
from mirrorfeed.publisher.errors import SpoolError

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
GROUP_FILE = 0o660
GROUP_FOLDER = 0o2770
"""What is made in it belongs to its group, too."""
LOG = "-wal"
INDEX = "-shm"
LEFTOVERS = (LOG, INDEX, "-journal")
"""What SQLite keeps beside a file, by the end of its name."""
LOCK = ".forwarder"
UNSYNCED = "-unsynced"
"""There while the disk may not have all of the log, of which it is a copy."""
REMEDY = f"name another spool with {environment.SPOOL}"


def beside(path: Path, ending: str) -> Path:
    """A file that belongs to the spool."""
    return path.with_name(path.name + ending)


def files_of(path: Path) -> list[Path]:
    """The spool's files; some of them need not be there."""
    return [path, *(beside(path, ending) for ending in (*LEFTOVERS, LOCK, UNSYNCED))]


def make_folder(folder: Path) -> None:
    """Makes a folder for this user alone, whatever the umask is. One that is there stays as it is.

    Raises SpoolError if it cannot be made.
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        folder.chmod(PRIVATE_FOLDER)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            raise SpoolError(
                f"the folder {folder} cannot be made: {error.strerror}; make it, or {REMEDY}"
            ) from error


def make_file(path: Path) -> None:
    """Makes an empty file that may be used by whoever may use the folder, whatever the umask is.

    If root makes it, it belongs to the folder's owner, so that a command typed by root does not
    keep a service from its spool. Raises FileExistsError if anything has that name, even a link.
    """
    folder = path.parent.stat()
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE)
    _share(descriptor, folder, _shared(_is_group_folder(folder)))


def make_folder_within(folder: Path) -> None:
    """Makes a folder that may be used by whoever may use the one it is in, as `make_file` makes a
    file. One that is there stays as it is. Raises OSError."""
    outer = folder.parent.stat()
    try:
        folder.mkdir(PRIVATE_FOLDER)
    except FileExistsError:
        return
    # Not through a link put there meanwhile: root would give away what it leads to.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    _share(descriptor, outer, GROUP_FOLDER if _is_group_folder(outer) else PRIVATE_FOLDER)


def _share(descriptor: int, folder: os.stat_result, mode: int) -> None:
    """Gives what was made in the folder this mode and, if root made it, the folder's owner."""
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _is_group_folder(folder: os.stat_result) -> bool:
    return folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) == stat.S_IWGRP


def _shared(by_group: int) -> int:
    return GROUP_FILE if by_group else PRIVATE_FILE


def close_to_others(path: Path) -> None:
    """Takes the rights that older versions gave everybody, and a group that could only read.

    Only the owner can do that; what belongs to others stays as it is.
    """
    for file in files_of(path):
        try:
            found = file.lstat()
        except FileNotFoundError:
            continue
        mode = _shared(found.st_mode & stat.S_IWGRP)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if is_ours and stat.S_IMODE(found.st_mode) & ~mode:
            file.chmod(mode)


def check_rights(path: Path) -> None:
    """Raises SpoolError if this user may not write to one of the spool's files, or to its folder.

    SQLite would read such a spool, and a forwarder would publish all of it in each run.
    """
    for place in (path.parent, *files_of(path)):
        if place.is_symlink() and place != path.parent:
            raise SpoolError(
                f"the spool {path} cannot be used: {place} is a symbolic link: remove it"
            )
        wanted = os.W_OK | (os.X_OK if place == path.parent else os.R_OK)
        if not os.access(place, wanted, effective_ids=True) and os.path.lexists(place):
            raise SpoolError(
                f"the spool {path} cannot be used: {_name(os.geteuid())} may not write to {place},"
                f" which belongs to {_name(place.lstat().st_uid)}; run this as that user, share the"
                f" folder by a group, or {REMEDY}"
            )


def check_leftovers(path: Path) -> None:
    """Raises SpoolError if there is no spool, but something that SQLite kept beside one. It would
    take that for a part of the new one."""
    left = [str(each) for ending in LEFTOVERS if os.path.lexists(each := beside(path, ending))]
    if left and not path.exists():
        raise SpoolError(
            f"there is no spool {path}, but there is {' and '.join(left)}: put the spool that"
            " belongs to it back, or move it away (it may hold events)"
        )


def check_log(path: Path) -> None:
    """Raises SpoolError if somebody removed the log of a spool in use. Whoever opened it then would
    write to another log than the others. When the last of those closes, SQLite merges theirs."""
    log, index = beside(path, LOG), beside(path, INDEX)
    if os.path.lexists(index) and not os.path.lexists(log) and os.path.lexists(index):
        raise SpoolError(
            f"the log {log} was removed while the spool was in use: end the processes that use the"
            f" spool (fuser can tell which); if there are none, remove {index}"
        )


def _name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"
