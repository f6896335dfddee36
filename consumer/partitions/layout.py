"""Which queues the workers consume: all of them read it from one row in the database.

`mirror-consumer init` sets their number once, and `mirror-consumer topology` changes it. The locks
are on the table, in modes that need the right to write to it: whoever may only read cannot hold
them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from msgspec import Struct
from psycopg2.errors import LockNotAvailable
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.errors import LayoutError
from mirrorfeed.contract import routing

IDLE_TIMEOUT = "SET LOCAL idle_in_transaction_session_timeout = '60s'"
"""A transaction here waits while the broker declares or deletes many queues."""

BEGIN_WITH = text("INSERT INTO topology (partitions) VALUES (:partitions) ON CONFLICT DO NOTHING")
READ = text("SELECT partitions, moving_to, stage FROM topology")
WRITE = text("UPDATE topology SET partitions = :partitions, moving_to = :moving_to, stage = :stage")


class Stage(StrEnum):
    """How far a change in the number of partitions has come; `schema.sql` has a drawing."""

    STEADY = "steady"
    TO_INTERIM = "to-interim"
    DELETING_OLD = "deleting-old"
    TO_FINAL = "to-final"
    DELETING_INTERIM = "deleting-interim"


class Layout(Struct, frozen=True):
    """The row of the table `topology`."""

    partitions: int
    moving_to: int | None = None
    stage: Stage = Stage.STEADY

    @property
    def queues(self) -> list[str]:
        """What the workers consume now."""
        match self.stage:
            case Stage.STEADY | Stage.TO_INTERIM:
                return self.old
            case Stage.DELETING_OLD | Stage.TO_FINAL:
                return self.interim
            case Stage.DELETING_INTERIM:
                return self.final

    @property
    def old(self) -> list[str]:
        return routing.partition_queues(self.partitions)

    @property
    def interim(self) -> list[str]:
        return routing.interim_queues(self._target)

    @property
    def final(self) -> list[str]:
        return routing.partition_queues(self._target)

    @property
    def under_way(self) -> str:
        """The message for anybody who wants something else in the middle of a change."""
        return (
            f"a move to {self.moving_to} partitions is under way: finish it first, with"
            f" mirror-consumer topology --partitions {self.moving_to}"
        )

    @property
    def _target(self) -> int:
        if self.moving_to is None:
            raise ValueError("the number of partitions is not being changed")
        return self.moving_to


def read_layout(connection: Connection) -> Layout:
    """Raises LayoutError if the number of partitions has not been set yet."""
    row = connection.execute(READ).one_or_none()
    if row is None:
        raise LayoutError("the number of partitions has not been set: run mirror-consumer init")
    return Layout(row.partitions, row.moving_to, Stage(row.stage))


def write_layout(connection: Connection, layout: Layout) -> None:
    connection.execute(
        WRITE,
        {
            "partitions": layout.partitions,
            "moving_to": layout.moving_to,
            "stage": layout.stage,
        },
    )


@contextmanager
def unchanging_layout(engine: Engine, default_partitions: int) -> Iterator[Layout]:
    """The layout, which nobody can change inside the block: use it to declare queues on the broker.
    If the number of partitions has not been set, it is `default_partitions` from now on."""
    with engine.begin() as connection:
        connection.exec_driver_sql(IDLE_TIMEOUT)
        # Even if there is a row, this takes a lock that `keep_unchanging_out` waits for.
        connection.execute(BEGIN_WITH, {"partitions": default_partitions})
        yield read_layout(connection)


@contextmanager
def moving_layout(engine: Engine) -> Iterator[Connection]:
    """For one step of a move, however long it takes: as long as the connection answers, nobody else
    moves. Raises LayoutError if somebody else does already."""
    with engine.begin() as connection:
        # It holds no snapshot meanwhile, so nothing waits for it to be vacuumed.
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        try:
            connection.exec_driver_sql("LOCK TABLE topology IN SHARE UPDATE EXCLUSIVE MODE NOWAIT")
        except DBAPIError as error:
            if isinstance(error.orig, LockNotAvailable):
                raise LayoutError(
                    "another mirror-consumer topology --partitions is running: wait until it has"
                    " ended"
                ) from error
            raise
        yield connection


def keep_unchanging_out(connection: Connection) -> None:
    """Until the transaction ends, nobody is in a block of `unchanging_layout`."""
    connection.exec_driver_sql(IDLE_TIMEOUT)
    connection.exec_driver_sql("LOCK TABLE topology IN SHARE ROW EXCLUSIVE MODE")
