"""References: what upstream says it has, and what a mirror has.

A mirror's are read from its files, which takes no process; the puller's git keeps them there
(gitrepository-layout(5)).
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from mirrorfeed.puller.packed_refs import (
    LOCK,
    is_name,
    is_object,
    object_in,
    read_packed,
    read_text,
)

HEAD = "HEAD"
HEADS = "refs/heads/"
TAGS = "refs/tags/"
_SYMBOLIC = "ref: "
MAX_NAME_LENGTH = 4096
"""Of a longer name git can have no file: Linux's PATH_MAX (limits.h)."""

DEFAULT_REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
LEFT_OUT = (
    ("refs/pull/", "/merge"),
    ("refs/merge-requests/", "/merge"),
    ("refs/pull-requests/", "/merge"),
    ("refs/keep-around/", ""),
    ("refs/pipelines/", ""),
    ("refs/environments/", ""),
    ("refs/remotes/", ""),
)
"""What forges make anew all the time, or keep for themselves: the beginning and end of a name."""
ALL_REFSPECS = ("+refs/*:refs/*", *(f"^{begin}*{end}" for begin, end in LEFT_OUT))


class Refs(Struct, frozen=True):
    """References with the objects they name, and which branch HEAD is."""

    objects: Mapping[str, str]
    head: str | None = None
    """The branch's whole name; None if HEAD is no branch, or it is not known."""
    head_object: str | None = None

    @property
    def digest(self) -> str:
        """The same for the same references."""
        sha = hashlib.sha256(f"{self.head or ''}\n".encode(errors="surrogateescape"))
        for name in sorted(self.objects):
            line = f"{self.objects[name]} {name}\n"
            sha.update(line.encode(errors="surrogateescape"))
        return sha.hexdigest()

    def wanted(self, *, has_all: bool) -> "Refs":
        """Those that are mirrored."""
        objects = {name: at for name, at in self.objects.items() if is_wanted(name, has_all)}
        return Refs(objects, self.head, self.head_object)


def is_wanted(name: str, has_all: bool) -> bool:
    if not has_all:
        return name.startswith((HEADS, TAGS))
    return name.startswith("refs/") and not any(
        name.startswith(begin) and name.endswith(end) for begin, end in LEFT_OUT
    )


def conflict_in(names: Iterable[str]) -> tuple[str, str] | None:
    """Two references of which git can have only one, as `a` is a folder for `a/b`."""
    # What is in a folder comes directly after a reference with the name of the folder, as nothing
    # is less than its separator.
    in_order = sorted(names, key=lambda name: name.replace("/", "\0"))
    for name, following in pairwise(in_order):
        if following.startswith(f"{name}/"):
            return name, following
    return None


def refs_listed(output: bytes) -> Refs:
    """From what `git ls-remote --symref` prints. Names that git itself takes from no server, or has
    no file for, are left out. So is what is no line of it: git prints a name as the server gives
    it, which may have line breaks in it."""
    objects: dict[str, str] = {}
    head = head_object = None
    for line in os.fsdecode(output).split("\n"):
        what, _, name = line.partition("\t")
        if name == HEAD and what.startswith(_SYMBOLIC):
            target = what.removeprefix(_SYMBOLIC)
            head = target if len(target) <= MAX_NAME_LENGTH and is_name(target) else None
        elif not is_object(what):
            continue
        elif name == HEAD:
            head_object = what
        elif len(name) <= MAX_NAME_LENGTH and is_name(name):
            objects[name] = what
    return Refs(objects, head, head_object)


def refs_on_disk(git_dir: Path) -> Refs:
    """What a mirror has. A reference that is broken has an empty object. Raises OSError."""
    objects = read_packed(git_dir).objects
    for name in files_of_refs(git_dir):
        if not name.endswith(LOCK):
            text = read_text(f"{git_dir}/{name}")
            if not text.startswith(_SYMBOLIC):  # another name for one of the others
                objects[name] = object_in(text)
    said = read_text(f"{git_dir}/{HEAD}")
    if not said.startswith(_SYMBOLIC):
        return Refs(objects, None, object_in(said) or None)
    head = said.removeprefix(_SYMBOLIC).strip()
    return Refs(objects, head, objects.get(head) or None)


def files_of_refs(git_dir: Path) -> Iterator[str]:
    """Files of references and of their locks, from `refs/` on. Each is stronger than what is
    packed."""
    top = len(str(git_dir)) + 1
    for folder, _, files in os.walk(git_dir / "refs"):
        for file in files:
            yield f"{folder}/{file}"[top:]
