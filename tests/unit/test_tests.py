"""What holds of the tests themselves, so that each of them can fail."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.private_servers import ALWAYS_PRIVATE

TESTS = Path(__file__).parents[1]
SOURCES = [(str(path.relative_to(TESTS)), path.read_text()) for path in TESTS.rglob("*.py")]
STARTERS = {"submit", "run_coroutine_threadsafe"}
"""Calls that return a future, which keeps what the other thread raised."""


def imported_by(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def takes_private_servers(source: str) -> bool:
    """Whether a module starts private servers itself, or a cluster of them."""
    return any(
        name.startswith("sandbox.")
        and name.rpartition(".")[2].startswith("Private")
        and not name.endswith(".PrivateFolder")
        for name in imported_by(ast.parse(source))
    )


def called(node: ast.AST) -> str:
    """The last name of what a node calls, or an empty string."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", "") or getattr(node.func, "id", "")


def imports_of_tests(source: str) -> list[str]:
    """What a module imports from test modules and from conftest."""
    return [
        name
        for name in imported_by(ast.parse(source))
        if name.startswith("tests.")
        and any(part == "conftest" or part.startswith("test_") for part in name.split("."))
    ]


def unasked(source: str) -> list[int]:
    """The lines on which a future is thrown away, or a thread is started that has none."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Expr) and called(node.value) in STARTERS)
        or (isinstance(node, ast.Call) and called(node) in ("Thread", "Timer"))
    ]


def test_no_test_module_imports_another() -> None:
    """What several of them use lies in a module that is no test."""
    assert {name: found for name, source in SOURCES if (found := imports_of_tests(source))} == {}


def test_no_thread_keeps_its_failure_to_itself() -> None:
    """Threads are started through futures, and no future is thrown away."""
    assert {name: found for name, source in SOURCES if (found := unasked(source))} == {}


def test_all_that_take_private_servers_are_listed() -> None:
    """For whoever runs the tests with a container engine; README names them, too."""
    found = {name for name, source in SOURCES if takes_private_servers(source)}
    assert {name for name in found if not name.startswith(tuple(ALWAYS_PRIVATE))} == set()
    assert {
        listed for listed in ALWAYS_PRIVATE if not any(name.startswith(listed) for name in found)
    } == set()
    readme = (TESTS.parent / "README.md").read_text()
    assert [listed for listed in ALWAYS_PRIVATE if f"`{listed}`" not in readme] == []


def test_what_these_tests_look_for_is_found() -> None:
    """Every spelling of it is found, and nothing else."""
    assert imports_of_tests("from tests.unit.test_wire import events") != []
    assert imports_of_tests("from tests.unit import test_wire") != []
    assert imports_of_tests("import tests.faults.conftest") != []
    assert imports_of_tests("from tests.servers import rows") == []
    assert takes_private_servers("from sandbox import PrivateRabbitMQ, own_database")
    assert takes_private_servers("from sandbox.cluster import PrivateCluster")
    assert not takes_private_servers("from sandbox.folder import PrivateFolder")
    assert not takes_private_servers("from sandbox import own_broker")
    assert unasked("threads.submit(apply, batch)") == [1]
    assert unasked("asyncio.run_coroutine_threadsafe(serve(), loop)") == [1]
    assert unasked("thread = threading.Thread(target=apply)") == [1]
    assert unasked("Thread(target=apply).start()") == [1]
    assert unasked("applying = threads.submit(apply, batch)") == []
    assert unasked("threads.submit(apply, batch).result()") == []
