"""A spool's file: its tables, how it is created, and how an older version is upgraded."""

import os
import socket
import sqlite3
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

SCHEMA_VERSION = 2

SCHEMA = f"""
CREATE TABLE source (
    uri TEXT NOT NULL,
    last_sequence INTEGER NOT NULL,
    confirmed INTEGER NOT NULL  -- how many events the broker has
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
PRAGMA user_version = 2;
"""


def version_of(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def upgrade(connection: sqlite3.Connection) -> int:
    """Keeps the events in a version 1 spool. Another process may be upgrading it too."""
    connection.execute("BEGIN IMMEDIATE")
    if version_of(connection) == 1:
        for statement in FROM_VERSION_1.split(";"):
            connection.execute(statement)
    connection.execute("COMMIT")
    return version_of(connection)


def create(path: Path) -> None:
    """Builds the whole file under another name first, so that nobody ever sees half a spool."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4()}")
    connection = sqlite3.connect(draft)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
        uri = f"/pullers/{quote(socket.gethostname(), safe='')}/{uuid4()}"
        connection.execute("INSERT INTO source VALUES (?, 0, 0)", (uri,))
        connection.commit()
        connection.close()
        with suppress(FileExistsError):  # another process was faster: its spool is the spool
            path.hardlink_to(draft)
    finally:
        connection.close()
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
