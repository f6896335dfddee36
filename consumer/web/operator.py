"""What the page may change, once it was started with `--operate`: an operator's rights in the
database, and threads that carry out operations."""

import logging
import os
import socket
import threading
from concurrent.futures import Future
from uuid import uuid4

from psycopg2.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from mirrorfeed.amqp.connections import BrokerUnavailable, connection_parameters
from mirrorfeed.consumer.database import open_engine
from mirrorfeed.consumer.errors import OperationError, ServerUnavailable
from mirrorfeed.consumer.operations import store
from mirrorfeed.consumer.operations.perform import perform
from mirrorfeed.consumer.operations.store import Kind, Operation, State
from mirrorfeed.consumer.partitions.repartition import repartition
from mirrorfeed.consumer.web.trouble import in_words, status_of
from mirrorfeed.contract.environment import newest
from mirrorfeed.contract.outage import Outage

CONNECTIONS = 6
"""Two of them for a move to other partitions."""
CONNECTION_NAME = "mirrorfeed operations"
SETTINGS = {"application_name": "mirrorfeed web --operate", "statement_timeout": "60s"}
LOCK_TIMEOUT_SECONDS = 2.0
"""Branches that somebody holds are tried again; meanwhile nobody waits for the page."""
LOOK_SECONDS = 1.0
END_SECONDS = 1.5
RETRY_SECONDS = 5.0

MAY_OPERATE = text("""
    SELECT pg_is_in_recovery() AS is_standby,
        has_any_column_privilege('operation', 'INSERT') AS may_begin,
        has_any_column_privilege('dead_letter', 'UPDATE') AS may_resolve
""")

logger = logging.getLogger(__name__)


def operating_engine(database_url: str) -> Engine:
    """An engine that may write. Raises ValueError if the URL cannot be read."""
    return open_engine(
        database_url,
        lock_timeout_seconds=LOCK_TIMEOUT_SECONDS,
        settings=SETTINGS,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_pre_ping=True,
    )


def why_not(connection: Connection) -> str | None:
    """Why this user of the database cannot change anything in it; None if it can."""
    said = connection.execute(MAY_OPERATE).one()
    if said.is_standby:
        return "the database is a standby, which cannot be changed"
    if not (said.may_begin and said.may_resolve):
        return "the page's database user has only a reader's rights: see roles.sql"
    return None


class Operator:
    """Carries out operations from `start` to `stop`: letters in one thread, a move to other
    partitions in another."""

    def __init__(self, engine: Engine, amqp_url: str) -> None:
        self.engine = engine
        self.editing = threading.Lock()
        """Held from looking at a letter to changing it."""
        self._amqp_url = amqp_url
        self._name = f"page {socket.gethostname()}, process {os.getpid()}, {uuid4()}"
        self._stopping = threading.Event()
        self._woken = {of_partitions: threading.Event() for of_partitions in (False, True)}
        self._threads = [
            threading.Thread(
                target=self._run, args=(of_partitions,), name="operations", daemon=True
            )
            for of_partitions in self._woken
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Waits until letters have stopped between two transactions, or for END_SECONDS; a move to
        other partitions may take long. Whoever comes next goes on with them."""
        self._stopping.set()
        self.wake()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(END_SECONDS)

    def wake(self) -> None:
        """Something is to be done: looks at once."""
        for event in self._woken.values():
            event.set()

    def _run(self, of_partitions: bool) -> None:
        woken = self._woken[of_partitions]
        outage = Outage(logger, "a server that operations need")
        while not self._stopping.is_set():
            woken.clear()
            try:
                with self.engine.begin() as connection:
                    operation = store.claim(connection, self._name, of_partitions=of_partitions)
                outage.is_over()
                if operation is not None:
                    self._carry_out(operation)
                    continue
            except Exception as error:
                outage.goes_on(in_words(error))
                self._stopping.wait(RETRY_SECONDS)
            else:
                woken.wait(LOOK_SECONDS)

    def _carry_out(self, operation: Operation) -> None:
        """Raises SQLAlchemyError if the database is in trouble: then it is tried again."""
        logger.info("operation %d goes on", operation.id)
        try:
            if operation.kind is Kind.REPARTITION:
                self._repartition(operation)
            else:
                for _ in perform(self.engine, operation, self._name, self._stopping):
                    pass
        except OperationError as error:
            logger.info("%s", error)  # somebody has stopped it
        except Exception as error:
            self._report(operation, error)
        finally:
            with self.engine.begin() as connection:
                store.release(connection, operation.id, self._name)

    def _report(self, operation: Operation, error: Exception) -> None:
        """Says in its row why it does not go on. Raises the error if it may pass."""
        passes = isinstance(error, BrokerUnavailable | ServerUnavailable | SQLAlchemyError)
        if passes and not isinstance(getattr(error, "orig", None), InsufficientPrivilege):
            self._say(operation, State.RUNNING, in_words(error))
            raise error
        if status_of(error) is None:
            logger.exception("operation %d failed", operation.id)
            self._say(operation, State.FAILED, "an error of ours: the page's log has the details")
        else:
            self._say(operation, State.FAILED, in_words(error))

    def _repartition(self, operation: Operation) -> None:
        """Says every second how far it is. Raises what `repartition` raises, and OperationError."""
        said: list[str] = []
        moved: Future[None] = Future()

        def move() -> None:
            try:
                addresses = connection_parameters(newest(self._amqp_url), name=CONNECTION_NAME)
                partitions = operation.asked["partitions"]
                repartition(self.engine, addresses, partitions, report=said.append)
            except Exception as error:
                moved.set_exception(error)
            else:
                moved.set_result(None)

        # It may wait for workers for a long time; the process need not.
        threading.Thread(target=move, name="move", daemon=True).start()
        while not self._stopping.is_set():
            try:
                moved.result(timeout=LOOK_SECONDS)
            except TimeoutError:
                self._say(operation, State.RUNNING, said[-1] if said else None)
            else:
                self._say(operation, State.DONE, None)
                return

    def _say(self, operation: Operation, state: State, detail: str | None) -> None:
        """Raises OperationError if somebody else has it now."""
        with self.engine.begin() as connection:
            result = store.hold(connection, operation.id, self._name)
            store.note(connection, operation.id, result, state, detail)
