"""What the puller remembers beside the mirrors: an SQLite file that any of its commands may read.

The truth about attempts is in the spool, and the truth about mirrors is the mirrors. If this file
is lost, every branch is due, and that is all.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from mirrorfeed.contract.sqlite_uri import sqlite_uri
from mirrorfeed.puller.errors import PullerError

BUSY_TIMEOUT_SECONDS = 30.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS branch (id INTEGER PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS host (
    name TEXT PRIMARY KEY, paused_until REAL NOT NULL, pauses INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


class BranchState(Struct, kw_only=True, omit_defaults=True):
    """Of one branch. Instants are seconds since 1970 in UTC, by the clock on the wall."""

    name: str = ""
    url: str = ""
    """Where the mirror is from."""
    due_at: float = 0.0
    attempted_at: float = 0.0
    """When the last attempt ended; 0 if there was none."""
    mirrored_at: float = 0.0
    """When the last attempt that succeeded began; 0 if there was none."""
    failures: int = 0
    """How many attempts have failed since."""
    failure_class: str | None = None
    reason: str | None = None
    """Why the last attempt failed; None if it did not."""
    revision: str | None = None
    digest: str | None = None
    """Of the references that the mirror has."""
    size_bytes: int = 0
    running_since: float | None = None
    changed_at: float = 0.0
    """When something was last fetched."""
    maintained_at: float = 0.0
    is_suspect: bool = False
    """Whether maintenance has found something corrupt in it."""
    healed_at: float = 0.0
    """When the mirror was last made anew because it was corrupt."""


class HostState(Struct):
    """Of one host that has asked to be left alone."""

    paused_until: float
    pauses: int
    """How many times in a row."""


class State:
    """The file. Safe to use from several threads and processes.

    Every method raises PullerError if it cannot be used.
    """

    def __init__(self, path: Path, *, reads_only: bool = False) -> None:
        """Makes the file if there is none. With `reads_only` a file that is not there is as an
        empty one, and nothing can be written."""
        self._path = path
        self._lock = threading.RLock()
        with self._translated():
            is_there = path.exists()
            source = sqlite_uri(path, "ro" if reads_only else "rwc")
            self._connection = sqlite3.connect(
                ":memory:" if reads_only and not is_there else source,
                timeout=BUSY_TIMEOUT_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                uri=True,
            )
            if not (reads_only and is_there):
                try:
                    self._set_up()
                except BaseException:
                    self._connection.close()
                    raise
        self._decoder = msgspec.msgpack.Decoder(BranchState)

    def _set_up(self) -> None:
        # What a power cut takes away is when branches are due, and that they ran.
        self._connection.execute("PRAGMA journal_mode = WAL").close()
        self._connection.execute("PRAGMA synchronous = NORMAL").close()
        self._connection.executescript(SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def branches(self) -> dict[int, BranchState]:
        with self._translated():
            rows = self._connection.execute("SELECT id, state FROM branch").fetchall()
            return {branch_id: self._decoder.decode(state) for branch_id, state in rows}

    def branch(self, branch_id: int) -> BranchState | None:
        with self._translated():
            row = self._connection.execute(
                "SELECT state FROM branch WHERE id = ?", (branch_id,)
            ).fetchone()
            return self._decoder.decode(row[0]) if row else None

    def save(self, states: Iterable[tuple[int, BranchState]]) -> None:
        """All of them, or none."""
        with self._translated():
            rows = [(branch_id, msgspec.msgpack.encode(state)) for branch_id, state in states]
            with self._transaction():
                self._connection.executemany("INSERT OR REPLACE INTO branch VALUES (?, ?)", rows)

    def forget(self, branch_id: int) -> None:
        with self._translated(), self._transaction():
            self._connection.execute("DELETE FROM branch WHERE id = ?", (branch_id,))

    def hosts(self) -> dict[str, HostState]:
        with self._translated():
            rows = self._connection.execute("SELECT name, paused_until, pauses FROM host")
            return {name: HostState(until, pauses) for name, until, pauses in rows}

    def save_host(self, name: str, state: HostState | None) -> None:
        """None if it need not be left alone any more."""
        with self._translated(), self._transaction():
            self._connection.execute("DELETE FROM host WHERE name = ?", (name,))
            if state is not None:
                self._connection.execute(
                    "INSERT INTO host VALUES (?, ?, ?)", (name, state.paused_until, state.pauses)
                )

    def fact(self, name: str) -> bytes | None:
        """Something else that was saved under that name."""
        with self._translated():
            row = self._connection.execute(
                "SELECT value FROM fact WHERE name = ?", (name,)
            ).fetchone()
            return row[0] if row else None

    def save_fact(self, name: str, value: bytes) -> None:
        with self._translated(), self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (sqlite3.Error, msgspec.MsgspecError, ValueError) as error:
            raise PullerError(
                f"the puller's notes in {self._path} cannot be used: {error}; if the file is"
                " broken, remove it: then every branch is due"
            ) from error
