"""References: what upstream says it has, and what a mirror has.

A mirror's are read from its files, which takes no process; the puller's git keeps them there
(gitrepository-layout(5)).
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

HEAD = "HEAD"
HEADS = "refs/heads/"
TAGS = "refs/tags/"
PACKED = "packed-refs"
_OBJECT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SYMBOLIC = "ref: "
_PEELED = "^{}"

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


def refs_listed(output: bytes) -> Refs:
    """From what `git ls-remote --symref` prints."""
    objects: dict[str, str] = {}
    head = head_object = None
    for line in os.fsdecode(output).split("\n"):
        what, tab, name = line.partition("\t")
        if not tab or name.endswith(_PEELED):
            continue
        if what.startswith(_SYMBOLIC):
            head = what.removeprefix(_SYMBOLIC) if name == HEAD else head
        elif name == HEAD:
            head_object = what
        else:
            objects[name] = what
    return Refs(objects, head, head_object)


def refs_on_disk(git_dir: Path) -> Refs:
    """What a mirror has. A reference that is broken has an empty object. Raises OSError."""
    objects = _packed(git_dir)
    top = str(git_dir)
    for folder, _, files in os.walk(git_dir / "refs"):
        for file in files:
            if not file.endswith(".lock"):
                path = f"{folder}/{file}"
                text = _read(path)
                if not text.startswith(_SYMBOLIC):  # another name for one of the others
                    objects[path[len(top) + 1 :]] = _object_in(text)
    said = _read(f"{top}/{HEAD}")
    if not said.startswith(_SYMBOLIC):
        return Refs(objects, None, _object_in(said) or None)
    head = said.removeprefix(_SYMBOLIC).strip()
    return Refs(objects, head, objects.get(head) or None)


def _packed(git_dir: Path) -> dict[str, str]:
    try:
        text = _read(str(git_dir / PACKED))
    except FileNotFoundError:
        return {}
    lines = (line.partition(" ") for line in text.split("\n") if line and line[0] not in "#^")
    return {name: _object_in(at) for at, _, name in lines}


def _read(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123 - there may be many of them
        return os.fsdecode(file.read())


def _object_in(text: str) -> str:
    text = text.strip()
    return text if _OBJECT.fullmatch(text) else ""
