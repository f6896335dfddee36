"""The file `packed-refs`: if a mirror has its references there, one rename changes them all.

It is read and written as git does it (gitrepository-layout(5), git-pack-refs(1)).
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mirrorfeed.contract.events import shown
from mirrorfeed.puller.folder import flush_folder
from mirrorfeed.puller.reasons import FailureClass, MirrorFailure

PACKED = "packed-refs"
LOCK = ".lock"
OWN = "packed-refs.mirrorfeed"
"""The new file, and another name of the lock: so this is known to be ours after a kill."""
_HEADER = "# pack-refs with: peeled fully-peeled sorted \n"
_OBJECT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_FORBIDDEN = re.compile(r"[\0-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|(?:\A|/)\.|\.lock(?:/|\Z)|[/.]\Z|\A/")
"""git-check-ref-format(1)."""


class Packed(NamedTuple):
    """What the file says."""

    objects: dict[str, str]
    """By the name of the reference; empty for one that is broken."""
    peeled: dict[str, str]
    """What an object is if no tag is looked at: itself, or what the tag is of."""


def read_packed(git_dir: Path) -> Packed:
    """Raises OSError; a file that is not there has no references."""
    try:
        text = read_text(f"{git_dir}/{PACKED}")
    except FileNotFoundError:
        return Packed({}, {})
    objects: dict[str, str] = {}
    peeled: dict[str, str] = {}
    at = ""
    for line in text.split("\n"):
        if line.startswith("^"):
            peeled[at] = object_in(line[1:])
        elif line and not line.startswith("#"):
            said, _, name = line.partition(" ")
            objects[name] = at = object_in(said)
            peeled.setdefault(at, at)
    is_complete = " fully-peeled " in text.partition("\n")[0]
    return Packed(objects, peeled if is_complete else {})


def packed_text(objects: Mapping[str, str], peeled: Mapping[str, str]) -> bytes:
    """What the file is to say. Raises MirrorFailure for a line that git would not understand: it
    would not read any of the others either."""
    for name, at in objects.items():
        # An id of the other kind of hashes is no object here.
        if not is_name(name) or not is_object(at) or len(at) != len(peeled[at]):
            raise MirrorFailure(
                FailureClass.OTHER, f"the mirror can have no reference {shown(name)} at {shown(at)}"
            )
    lines = [os.fsencode(_HEADER)]
    for bytes_, at in sorted((os.fsencode(name), at) for name, at in objects.items()):
        lines.append(b"%b %b\n" % (at.encode(), bytes_))
        if peeled[at] != at:
            lines.append(b"^%b\n" % peeled[at].encode())
    return b"".join(lines)


@contextmanager
def rewriting(git_dir: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of the old one when the block ends, unless that raises. No git
    writes references to the old one meanwhile.

    Raises MirrorFailure (`locked`) if one does already.
    """
    own, lock = git_dir / OWN, git_dir / (PACKED + LOCK)
    if is_ours(lock):  # of a puller that was killed: whoever lives has the lock of the mirror
        lock.unlink()
    own.unlink(missing_ok=True)
    try:
        with own.open("xb") as file:
            _take(lock, own)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                own.rename(git_dir / PACKED)
            finally:
                lock.unlink()
    finally:
        own.unlink(missing_ok=True)
    flush_folder(git_dir)


def _take(lock: Path, own: Path) -> None:
    try:
        try:
            lock.hardlink_to(own)
        except FileExistsError:
            raise
        except OSError:  # not every file system has them
            lock.touch(exist_ok=False)
    except FileExistsError:
        raise is_locked(lock) from None


def is_ours(lock: Path) -> bool:
    """Whether this module has made it."""
    others = (lock.with_name(name) for name in (OWN, PACKED))
    return lock.exists() and any(each.exists() and lock.samefile(each) for each in others)


def is_locked(lock: Path) -> MirrorFailure:
    """In git's words."""
    return MirrorFailure(FailureClass.LOCKED, f"Unable to create '{lock}': File exists")


def read_text(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123 - there may be many of them
        return os.fsdecode(file.read())


def object_in(text: str) -> str:
    """Empty if it names none."""
    text = text.strip()
    return text if is_object(text) else ""


def is_object(text: str) -> bool:
    """Whether it can be the id of an object."""
    return _OBJECT.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether git takes it for the name of a reference."""
    return text.startswith("refs/") and not _FORBIDDEN.search(text)
