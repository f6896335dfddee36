"""A spool's file: its tables, how it is created, how an older version is upgraded, and how a copy
becomes a source of its own."""

import logging
import os
import socket
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from mirrorfeed.publisher.spool_access import check_leftovers, make_file, make_folder
from mirrorfeed.publisher.spool_origin import Origin, origin_of

SCHEMA_VERSION = 3

SCHEMA = f"""
CREATE TABLE source (
    uri TEXT NOT NULL,
    last_sequence INTEGER NOT NULL,
    confirmed INTEGER NOT NULL, -- how many events the broker has; see become_new_source
    base INTEGER NOT NULL,      -- event.sequence is this much more than the number in the event
    machine TEXT NOT NULL,      -- where this is: see Origin
    boot TEXT NOT NULL,
    inode INTEGER NOT NULL,
    confirmed_at REAL           -- when the broker last confirmed an event
);
-- events that the broker has not confirmed yet
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    type TEXT NOT NULL,
    partition_key TEXT NOT NULL,
    body BLOB NOT NULL,
    spooled_at REAL NOT NULL
);
-- events that the broker will never take as they are
CREATE TABLE refused (
    sequence INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    type TEXT NOT NULL,
    partition_key TEXT NOT NULL,
    body BLOB NOT NULL,
    spooled_at REAL NOT NULL,
    because TEXT NOT NULL
);
-- the latest attempt of each branch: one process may start it and another one end it
CREATE TABLE attempt (branch_id INTEGER PRIMARY KEY, started_at TEXT NOT NULL, is_open INTEGER);
PRAGMA user_version = {SCHEMA_VERSION};
"""

FROM_VERSION_1 = """
ALTER TABLE source ADD COLUMN confirmed INTEGER NOT NULL DEFAULT 0;
UPDATE source SET confirmed =
    last_sequence - (SELECT count(*) FROM event) - (SELECT count(*) FROM refused);
"""
FROM_VERSION_2 = f"""
ALTER TABLE source ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
ALTER TABLE source ADD COLUMN machine TEXT NOT NULL DEFAULT '';
ALTER TABLE source ADD COLUMN boot TEXT NOT NULL DEFAULT '';
ALTER TABLE source ADD COLUMN inode INTEGER NOT NULL DEFAULT 0;
ALTER TABLE source ADD COLUMN confirmed_at REAL;
PRAGMA user_version = {SCHEMA_VERSION};
"""
UPGRADES = {1: FROM_VERSION_1 + FROM_VERSION_2, 2: FROM_VERSION_2}

logger = logging.getLogger(__name__)


def version_of(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def upgrade(connection: sqlite3.Connection, path: Path) -> int:
    """Keeps the events in a spool of an older version. Another process may be upgrading it too."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in UPGRADES.get(version_of(connection), "").split(";"):
        connection.execute(statement)
    _note_origin(connection, origin_of(path))
    connection.execute("COMMIT")
    return version_of(connection)


def create(path: Path) -> None:
    """Builds the whole file under another name first, so that nobody ever sees half a spool.

    Raises SpoolError if a part of another spool is in the way.
    """
    make_folder(path.parent)
    check_leftovers(path)
    draft = path.with_name(f".{path.name}.{uuid4()}")
    make_file(draft)
    try:
        with closing(sqlite3.connect(draft)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
            connection.execute(
                "INSERT INTO source VALUES (?, 0, 0, 0, ?, ?, ?, NULL)",
                (_new_uri(), *origin_of(draft)),
            )
            connection.commit()
        with suppress(FileExistsError):  # another process was faster: its spool is the spool
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def become_new_source(connection: sqlite3.Connection, path: Path) -> None:
    """If the spool is a copy, what it takes from now on is numbered from 1, as of a new source.

    Events that wait in it stay as they are: the original may have sent them or not, and may send
    them again. Until they are sent, `confirmed` is less than what the broker has of the new source,
    so that the account stays closed.
    """
    origin = origin_of(path)
    if origin.is_known_as(_noted_origin(connection)):
        return
    connection.execute("BEGIN IMMEDIATE")
    noted = _noted_origin(connection)
    if origin.is_copy_of(noted):
        (old_uri,) = connection.execute("SELECT uri FROM source").fetchone()
        connection.execute(
            "UPDATE source SET uri = ?, base = base + last_sequence,"
            " confirmed = confirmed - last_sequence, last_sequence = 0",
            (uri := _new_uri(),),
        )
        logger.warning(
            "the spool %s was copied or moved: its events come from %s now, no longer from %s",
            *(path, uri, old_uri),
        )
    _note_origin(connection, origin._replace(machine=origin.machine or noted.machine))
    connection.execute("COMMIT")


def _noted_origin(connection: sqlite3.Connection) -> Origin:
    return Origin._make(connection.execute("SELECT machine, boot, inode FROM source").fetchone())


def _note_origin(connection: sqlite3.Connection, origin: Origin) -> None:
    connection.execute("UPDATE source SET machine = ?, boot = ?, inode = ?", origin)


def _new_uri() -> str:
    return f"/pullers/{quote(socket.gethostname(), safe='')}/{uuid4()}"
