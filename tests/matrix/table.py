"""The table of docs/compatibility.md: read, and written again with new rows."""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

from tests.matrix.cells import CELLS, GIVEN

BEGIN = "<!-- make matrix writes what is between these two lines -->"
END = "<!-- until here -->"
TITLES = (
    *("cell", "Debian", "Python", "PostgreSQL", "RabbitMQ", "pika", "what ran"),
    *("passed", "failed", "skipped", "seconds", "on"),
)


@dataclass(frozen=True)
class Row:
    """One cell's latest run, as it is written."""

    cell: str
    debian: str
    python: str
    postgresql: str
    rabbitmq: str
    pika: str
    what: str
    passed: str
    failed: str
    skipped: str
    seconds: str
    on: str

    @property
    def key(self) -> tuple[str, ...]:
        """What the next run of the same takes the place of: servers that were given are others
        each time."""
        if self.cell != GIVEN:
            return (self.cell,)
        return (self.cell, self.postgresql.partition(".")[0], self.rabbitmq.rpartition(".")[0])


def rows_in(document: str) -> list[Row]:
    """Raises ValueError if the document has no such table."""
    _, table, _ = _parts(document)
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [Row(*(each.strip() for each in line.strip("|").split("|"))) for line in lines]


def with_row(document: str, row: Row) -> str:
    """The document with this row in place of the cell's last one."""
    before, _, after = _parts(document)
    rows = {each.key: each for each in [*rows_in(document), row]}
    ordered = sorted(rows.values(), key=lambda each: (_place(each.cell), each.key))
    return "\n".join([f"{before}{BEGIN}", "", *_lines(ordered), "", f"{END}{after}"])


def last_seconds(document: str) -> Mapping[str, tuple[int, str]]:
    """How long each cell took the last time, and on which day."""
    return {row.cell: (int(row.seconds), row.on) for row in rows_in(document)}


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _lines(rows: Iterable[Row]) -> list[str]:
    dashes = ("---" for _ in TITLES)
    return [line(TITLES), line(dashes), *(line(astuple(row)) for row in rows)]


def _place(cell: str) -> int:
    return list(CELLS).index(cell) if cell in CELLS else len(CELLS)


def _parts(document: str) -> tuple[str, str, str]:
    before, begin, rest = document.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no lines {BEGIN} and {END}")
    return before, table, after
