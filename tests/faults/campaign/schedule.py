"""Which fault hits what, when and for how long, all determined by the seed."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

PULLERS = 4
WORKERS = 3
PARTITIONS = 4
MAX_SKEW_SECONDS = 25 * 60
"""Twice this is below an hour, so no event is so far ahead of a clock that it is buried."""


class Kind(StrEnum):
    """The kinds of faults."""

    WORKER_KILLED = "worker killed"
    WORKER_FROZEN = "worker frozen"
    PULLER_KILLED = "puller killed"
    PULLER_FROZEN = "puller frozen"
    CLOCK_STEPPED = "puller's clock stepped"
    DISK_FULL = "disk full under a spool"
    BROKER_KILLED = "broker killed"
    MEMORY_ALARM = "memory alarm on the broker"
    LEADER_KILLED = "node of a partition's leader killed"
    NODE_KILLED = "broker node killed"
    NODE_FROZEN = "broker node frozen"
    DATABASE_KILLED = "database killed"
    CONNECTIONS_CUT = "connections cut"
    CONNECTIONS_SLOW = "connections slow"
    CONNECTIONS_DEAD = "connections dead"
    QUEUE_DELETED = "queue deleted"
    DUPLICATES = "events published twice"
    PARTITIONS_MOVED = "number of partitions changed"
    SERVICES_UPGRADED = "every service restarted, one by one"
    STANDBY_PROMOTED = "primary lost, standby promoted"


UPKEEP = frozenset({Kind.PARTITIONS_MOVED, Kind.SERVICES_UPGRADED, Kind.STANDBY_PROMOTED})
"""What operators do, or must do, in the life of a deployment. No schedule draws these."""


class Lane(StrEnum):
    """Faults in one lane follow each other; faults in different lanes overlap."""

    WORKERS = "workers"
    PULLERS = "pullers"
    BROKER = "broker"
    DATABASE = "database"
    NETWORK = "network"
    SIDE = "side"
    ALONE = "alone"
    """While nothing else happens."""


class Way(StrEnum):
    """The connections between two sides."""

    PULLERS_TO_BROKER = "pullers to broker"
    WORKERS_TO_BROKER = "workers to broker"
    WORKERS_TO_DATABASE = "workers to database"


@dataclass(frozen=True)
class _Habit:
    lane: Lane
    weight: float
    seconds: tuple[float, float]


_HABITS = {
    Kind.WORKER_KILLED: _Habit(Lane.WORKERS, 3, (0, 1)),
    Kind.WORKER_FROZEN: _Habit(Lane.WORKERS, 2, (0.5, 14)),
    Kind.PULLER_KILLED: _Habit(Lane.PULLERS, 3, (0, 1)),
    Kind.PULLER_FROZEN: _Habit(Lane.PULLERS, 1, (0.5, 8)),
    Kind.CLOCK_STEPPED: _Habit(Lane.PULLERS, 1, (0, 0)),
    Kind.DISK_FULL: _Habit(Lane.PULLERS, 1, (1, 4)),
    Kind.MEMORY_ALARM: _Habit(Lane.BROKER, 1, (1, 5)),
    Kind.DATABASE_KILLED: _Habit(Lane.DATABASE, 1, (0, 3)),
    Kind.CONNECTIONS_CUT: _Habit(Lane.NETWORK, 3, (0, 4)),
    Kind.CONNECTIONS_SLOW: _Habit(Lane.NETWORK, 1.5, (1, 4)),
    Kind.CONNECTIONS_DEAD: _Habit(Lane.NETWORK, 1.5, (1, 10)),
    Kind.QUEUE_DELETED: _Habit(Lane.ALONE, 0.7, (0, 0)),
    Kind.DUPLICATES: _Habit(Lane.SIDE, 2, (0, 0)),
}
_ONE_NODE = {Kind.BROKER_KILLED: _Habit(Lane.BROKER, 1, (0, 3))}
_CLUSTER = {
    Kind.LEADER_KILLED: _Habit(Lane.BROKER, 1.5, (0, 5)),
    Kind.NODE_KILLED: _Habit(Lane.BROKER, 1, (0, 5)),
    Kind.NODE_FROZEN: _Habit(Lane.BROKER, 1, (2, 16)),
}
_LANES = {
    kind: habit.lane for kind, habit in {**_HABITS, **_ONE_NODE, **_CLUSTER}.items()
} | dict.fromkeys(UPKEEP, Lane.ALONE)


@dataclass(frozen=True)
class Fault:
    """One fault, due once that many events have been reported."""

    at_event: int
    kind: Kind
    target: int
    """Which worker, puller, partition or node, modulo how many there are."""
    way: Way
    """Which connections."""
    seconds: float
    """How long it lasts."""
    amount: float
    """From 0 to 1: how slow, how full, how far."""

    @property
    def lane(self) -> Lane:
        return _LANES[self.kind]

    def __str__(self) -> str:
        whom = self.way if self.kind.startswith("connections") else f"{self.target}"
        return f"at event {self.at_event:,}: {self.kind} ({whom}) for {self.seconds:.1f} s"


def schedule(seed: int, *, events: int, faults: int, is_cluster: bool) -> list[Fault]:
    """The faults in order, scattered at random over the history."""
    random = Random(f"{seed}/schedule")
    known = _HABITS | (_CLUSTER if is_cluster else _ONE_NODE)
    kinds = list(known)
    # If there is room, one of each kind is included, so that all kinds occur.
    drawn = random.sample(kinds, len(kinds)) if faults >= len(kinds) else []
    weights = [known[kind].weight for kind in kinds]
    drawn += random.choices(kinds, weights, k=faults - len(drawn))
    random.shuffle(drawn)
    points = sorted(random.randrange(events // 50, events) for _ in drawn)
    return [
        Fault(
            at_event=point,
            kind=kind,
            target=random.randrange(12),
            way=random.choice(list(Way)),
            seconds=round(random.uniform(*known[kind].seconds), 1),
            amount=random.random(),
        )
        for point, kind in zip(points, drawn, strict=True)
    ]
