"""What can be run: on which Debian, with which servers and which pika."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sandbox import AMQP_URL, DATABASE_URL
from tests.private_servers import ALWAYS_PRIVATE

GIVEN = "given"
WITH_SERVERS = (
    "tests/integration",
    *(
        f"tests/acceptance/test_{name}.py"
        for name in (
            *("audit", "authserver", "bad_input", "dead_letters", "deadly_messages", "main_job"),
            *("partitions", "probes", "puller", "rights", "standby", "tls", "upgrade", "web"),
            "wrapper",
        )
    ),
)
"""What is tested with one server, and the main stories."""
MAIN_PART = ("tests/unit", *WITH_SERVERS)
OF_ITS_OWN = " ".join(f"--ignore=tests/{name}" for name in sorted(ALWAYS_PRIVATE))
"""Tests that would start servers of the cell in place of those that are given."""


class UnknownCell(ValueError):
    """The message says which there are."""


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    name: str
    suite: str
    """Of Debian."""
    what: str
    """What is run, for people."""
    tests: str = ""
    """A command whose tests are counted; without one it is `make test`."""
    python: str = ".venv/bin/python"
    servers: bool = True
    """Whether its tests talk to servers, so that their versions matter."""


CELLS = {
    cell.name: cell
    for cell in (
        Cell("bookworm", "bookworm", "`make demo`, `make test`"),
        Cell("trixie", "trixie", "`make demo`, `make test`"),
        Cell("testing", "testing", "`make demo`, `make test`"),
        Cell("sid", "sid", "`make demo`, `make test`"),
        Cell(
            "lowest",
            "bookworm",
            "`make test-lowest`",
            "make test-lowest",
            ".venv-lowest/bin/python",
        ),
        Cell("plain-pika", "bookworm", "`make test-plain-pika`", "make test-plain-pika"),
        Cell(
            "pika-versions",
            "bookworm",
            "`make test-pika-versions`",
            "make test-pika-versions",
            servers=False,
        ),
        Cell(GIVEN, "bookworm", "`make demo`, `make test`"),
    )
}
UNASKED = ("bookworm", "trixie", "testing", "lowest", "plain-pika", "pika-versions")
"""What runs if no cell is named. Testing and sid mostly have the same versions."""


def chosen(names: Sequence[str]) -> list[Cell]:
    """The cells of these names. Raises UnknownCell, also for servers that are not given."""
    if unknown := [name for name in names if name not in CELLS]:
        raise UnknownCell(f"no such cell: {', '.join(unknown)}; there are {', '.join(CELLS)}")
    if GIVEN in names and not given_servers():
        raise UnknownCell(f"{GIVEN}: set {AMQP_URL}, {DATABASE_URL} or both to URLs of servers")
    return [CELLS[name] for name in dict.fromkeys(names or UNASKED)]


def given_servers() -> dict[str, str]:
    """The URLs in this environment, which only one cell uses."""
    return {name: os.environ[name] for name in (AMQP_URL, DATABASE_URL) if os.environ.get(name)}


def commands(cell: Cell, *, whole: bool) -> Iterable[str]:
    """What is typed in it, one after the other."""
    if cell.tests:
        yield cell.tests
        return
    yield "make demo"
    if cell.name == GIVEN:
        # Everything else would be the same with any server.
        yield f"PYTEST_ADDOPTS='{OF_ITS_OWN}' make test TESTS='{' '.join(WITH_SERVERS)}'"
    else:
        yield "make test" + ("" if whole else f" TESTS='{' '.join(MAIN_PART)}'")


def extent(cell: Cell, *, whole: bool) -> str:
    """How much of `make test` that is, for people."""
    if cell.tests:
        return ""
    if cell.name == GIVEN:
        return ", what needs servers"
    return ", whole" if whole else ", its main part"
