"""Whether what everything uses has stopped growing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

FEWEST = 5
"""How many values a third must have to be judged."""


@dataclass(frozen=True)
class Gauge:
    """What is measured, and how much of a growth is none."""

    title: str
    share: float | None = None
    """The last third may have this much more than the second, as a part of it; None if the gauge
    only shows how things went."""
    slack: float = 0.0
    """And that much more beside it, for what is small."""


GAUGES = {
    "reported": Gauge("events reported"),
    "pending": Gauge("events waiting in spools"),
    "backlog": Gauge("messages in queues"),
    "dead letters": Gauge("dead letters", 0.0),
    # Python keeps memory that it has used once, so a busy minute leaves a step; a step is no slope.
    "memory": Gauge("memory, MB", 0.10, 2.0),
    # A connection that is made anew exists twice for a moment.
    "files": Gauge("open files", 0.0, 2.0),
    "threads": Gauge("threads", 0.0, 1.0),
    "broker connections": Gauge("connections of the broker", 0.10, 1.0),
    "database connections": Gauge("connections of the database", 0.10, 1.0),
    # Vacuum begins when a fifth of a table is dead, so a table breathes by that.
    "tables": Gauge("tables, MB", 0.20, 0.1),
    "indexes": Gauge("indexes, MB", 0.20, 0.1),
    "a row": Gauge("bytes a row, of tables that keep all", 0.20, 0.0),
    "spools": Gauge("spools, MB", 0.20, 0.1),
    # SQLite begins it again from the start at 1000 pages of 4 KiB, if nobody reads just then.
    "spool logs": Gauge("logs of spools, MB", 0.20, 4.0),
}


@dataclass(frozen=True)
class Judgement:
    """How one series fared."""

    gauge: str
    name: str
    second: float
    """The median of the second third."""
    last: float
    """The median of the last third."""
    most: float
    """What the last one might be at most."""

    @property
    def is_flat(self) -> bool:
        return self.last <= self.most

    def __str__(self) -> str:
        title = GAUGES[self.gauge].title
        return (
            f"{title} of {self.name}: {self.second:,.1f} in the second third,"
            f" {self.last:,.1f} in the last (at most {self.most:,.1f})"
        )


def judge(
    series: Mapping[tuple[str, str], Sequence[float | None]], looks: int
) -> Iterator[Judgement]:
    """Compares the thirds of the first so many looks, of each series that has enough values."""
    for (gauge, name), values in series.items():
        share = GAUGES[gauge].share
        second = known(values[looks // 3 : 2 * looks // 3])
        last = known(values[2 * looks // 3 : looks])
        if share is None or min(len(second), len(last)) < FEWEST:
            continue
        before, after = median(second), median(last)
        most = before * (1 + share) + GAUGES[gauge].slack
        yield Judgement(gauge, name, before, after, most)


def known(values: Sequence[float | None]) -> list[float]:
    return [each for each in values if each is not None]
