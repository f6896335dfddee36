"""What `make matrix` counts, and the table that it writes."""

from dataclasses import fields, replace

import pytest

from sandbox import AMQP_URL, DATABASE_URL
from tests.bare.system import ROOT
from tests.matrix.__main__ import DOCUMENT
from tests.matrix.cells import CELLS, GIVEN, MAIN_PART, UNASKED, UnknownCell, chosen, commands
from tests.matrix.counts import Counts, counted, names_of_failed
from tests.matrix.table import BEGIN, END, TITLES, Row, last_seconds, rows_in, with_row

ROW = Row(
    cell="trixie",
    debian="13.2",
    python="3.13.5",
    postgresql="17.6",
    rabbitmq="4.0.5",
    pika="1.4.4",
    what="`make test`",
    passed="9",
    failed="0",
    skipped="2",
    seconds="61",
    on="2026-11-28",
)
EMPTY = f"# Title\n\nBefore.\n\n{BEGIN}\n{END}\n\nAfter.\n"


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ("==== 5 passed, 1 skipped in 3.21s ====", Counts(5, 0, 1)),
        ("==== 2 failed, 1240 passed, 3 errors in 340.02s (0:05:40) ====", Counts(1240, 5, 0)),
        ("7 passed in 1.00s\nmore\n8 passed, 1 xfailed, 1 error in 2.00s\n", Counts(15, 1, 1)),
        ("make: *** [Makefile:1: test] Error 1", Counts(0, 0, 0)),
        ("took 5 passed exams in 3s of talk", Counts(0, 0, 0)),
    ],
)
def test_tests_are_counted(said: str, counts: Counts) -> None:
    """By the last line of each pytest, however many there were."""
    assert counted(said) == counts


def test_failed_tests_are_named() -> None:
    """Each once."""
    said = "FAILED tests/a.py::b[1] - assert 0\nERROR tests/c.py::d\nFAILED tests/a.py::b[1]\n"
    assert names_of_failed(said) == ["tests/a.py::b[1]", "tests/c.py::d"]


def test_a_row_takes_the_place_of_the_last_one_of_its_cell() -> None:
    """The rest of the document stays, and rows are in the order of the cells."""
    older = with_row(with_row(EMPTY, ROW), replace(ROW, cell="bookworm"))
    newer = with_row(older, replace(ROW, passed="10"))
    assert [(row.cell, row.passed) for row in rows_in(newer)] == [
        ("bookworm", "9"),
        ("trixie", "10"),
    ]
    assert newer.startswith(f"# Title\n\nBefore.\n\n{BEGIN}\n\n| cell |")
    assert newer.endswith(f"|\n\n{END}\n\nAfter.\n")
    assert last_seconds(newer)["trixie"] == (61, "2026-11-28")


def test_servers_that_were_given_have_a_row_for_each_version() -> None:
    """The next patch of one takes the place of the last."""
    document = EMPTY
    for postgresql in ("14.22", "16.13", "14.23"):
        document = with_row(document, replace(ROW, cell=GIVEN, postgresql=postgresql))
    assert [row.postgresql for row in rows_in(document)] == ["14.23", "16.13"]


def test_a_document_without_a_place_for_the_table_is_refused() -> None:
    """Rather than written over."""
    with pytest.raises(ValueError, match="no lines"):
        with_row("# Title\n", ROW)


def test_the_table_has_a_title_for_each_column() -> None:
    """The document has such a table, of cells that there are."""
    assert len(TITLES) == len(fields(Row))
    assert {row.cell for row in rows_in(DOCUMENT.read_text())} <= CELLS.keys()


def test_the_main_part_is_there() -> None:
    """A test that is renamed must not drop out of it."""
    assert [name for name in MAIN_PART if not (ROOT / name).exists()] == []


def test_cells_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order given; without names those that need nothing but Debian."""
    monkeypatch.delenv(AMQP_URL, raising=False)
    monkeypatch.delenv(DATABASE_URL, raising=False)
    assert [cell.name for cell in chosen(["sid", "bookworm", "sid"])] == ["sid", "bookworm"]
    assert tuple(cell.name for cell in chosen([])) == UNASKED
    with pytest.raises(UnknownCell, match="no such cell: buster; there are bookworm"):
        chosen(["buster"])
    with pytest.raises(UnknownCell, match=f"given: set {AMQP_URL}"):
        chosen([GIVEN])


def test_given_servers_are_used_by_all_tests_of_the_cell() -> None:
    """Those that need servers of their own are left out; other cells run them."""
    _, tests = commands(CELLS[GIVEN], whole=False)
    assert "--ignore=tests/acceptance/test_rights.py" in tests
    assert "tests/unit" not in tests
    assert list(commands(CELLS["sid"], whole=True)) == ["make demo", "make test"]
