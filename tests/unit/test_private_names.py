"""pika's private names are used in amqp/ and nowhere else."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pika
import pytest

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "amqp"
SELVES = ("self", "cls")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")


@cache
def private_names() -> frozenset[str]:
    """Of pika's attributes, functions, classes and modules, in the version that is installed."""
    names: set[str] = set()
    for path in Path(pika.__file__).parent.rglob("*.py"):
        names.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
    return frozenset(filter(is_private, names))


def used(source: str) -> list[str]:
    """Private names of pika that a module uses, or may use.

    An attribute of `self` is pika's only within a class that inherits from one of pika's. A string
    counts, too, as for `getattr` and for what replaces an attribute in a test.
    """
    module = ast.parse(source)
    imported = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(module)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).partition(".")[0] == "pika"
    }
    return sorted(set(_used(module, imported, is_pikas=False)) & private_names())


def _used(node: ast.AST, imported: set[str], is_pikas: bool) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        bases = {
            name.id for base in node.bases for name in ast.walk(base) if isinstance(name, ast.Name)
        }
        is_pikas = bool(bases & imported)
    if isinstance(node, ast.Attribute) and (is_pikas or not _is_own(node.value)):
        yield node.attr
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value.rpartition(".")[2]
    elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pika":
        yield from (node.module or "").split(".")
        yield from (alias.name for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _used(child, imported, is_pikas)


def _is_own(node: ast.expr) -> bool:
    """Whether it is `self`, `cls` or `super()`."""
    if isinstance(node, ast.Call):
        node = node.func
        return isinstance(node, ast.Name) and node.id == "super"
    return isinstance(node, ast.Name) and node.id in SELVES


PLANTED = {
    "channel._cancelled.add(tag)": ["_cancelled"],
    "self.channel._cancelled.add(tag)": ["_cancelled"],
    "setattr(connection, '_frame_buffer', b'')": ["_frame_buffer"],
    "mock.patch('pika.connection.Connection._process_frame')": ["_process_frame"],
    "from pika.adapters.base_connection import _StreamingProtocolShim": ["_StreamingProtocolShim"],
    "import pika\nclass Own(pika.SelectConnection):\n def read(self): self._channels.clear()": [
        "_channels"
    ],
    "import pika\nclass Own(pika.SelectConnection):\n def read(self): super()._read_frame()": [
        "_read_frame"
    ],
    "class Own:\n def close(self): self._channels.clear()": [],
    "from pika.adapters import SelectConnection\nSelectConnection().channel()": [],
}


@pytest.mark.parametrize("source", PLANTED)
def test_a_private_name_is_found(source: str) -> None:
    """By attribute, string, import and inheritance; an object's own names are its own."""
    assert used(source) == PLANTED[source]


def test_private_names_of_pika_are_used_in_amqp_only() -> None:
    """What breaks with another version of pika is in one place."""
    found = {
        str(path.relative_to(ROOT)): names
        for folder in sorted({path.parent for path in ROOT.glob("*/__init__.py")} - {ROOM})
        for path in folder.rglob("*.py")
        if path != Path(__file__)
        if (names := used(path.read_text()))
    }
    assert found == {}
