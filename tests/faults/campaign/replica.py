"""A pair of PostgreSQL servers: a primary, and a standby that has all that was ever committed."""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from sandbox import SandboxError, packages, wait_until
from sandbox.folder import PrivateFolder
from sandbox.postgresql import PrivatePostgreSQL

COPY_SECONDS = 120
STREAM_SECONDS = 30.0
SETTINGS = {
    # What a standby may still need while it is away or being made.
    "wal_keep_size": "512MB",
    "wal_retrieve_retry_interval": "500ms",
    # Vacuum keeps up with an hour that stands for a week.
    "autovacuum_naptime": "10s",
}


class Replica(PrivatePostgreSQL):
    """One of the two. With a primary it starts as that one's standby."""

    def __init__(self, primary: "Replica | None" = None) -> None:
        super().__init__(SETTINGS)
        self._primary = primary

    def start(self) -> None:
        super().start()
        if self._primary is not None:
            self._primary._wait_for_each_commit_of(self)

    def promote(self) -> None:
        """Makes a standby a primary, which has no standby yet."""
        self._primary = None
        _ask(self.url, "SELECT pg_promote()")

    def follow(self, primary: "Replica") -> None:
        """Makes it the standby of another, whatever it was and had before."""
        self.kill()
        assert self.folder is not None, "it was never started"
        shutil.rmtree(self.folder.path / "data")
        self._primary = primary
        self._fill(self.folder, packages.postgresql_programs())
        self.start()

    def _fill(self, folder: PrivateFolder, programs: Path) -> None:
        if self._primary is None:
            super()._fill(folder, programs)
            return
        command: list[str | Path] = [
            programs / "pg_basebackup",
            "--pgdata=data",
            f"--dbname={self._primary.url}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        ]
        if folder.spawn(command, env={}, user=self._user).wait(COPY_SECONDS) != 0:
            raise self._failure("pg_basebackup failed")

    def _wait_for_each_commit_of(self, standby: "Replica") -> None:
        """From now on a commit here returns once the standby has it, too."""
        query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        try:
            wait_until(
                lambda: _ask(self.url, query) == 1, STREAM_SECONDS, f"{standby.name} to follow"
            )
        except TimeoutError as error:
            raise SandboxError(str(error)) from error
        _ask(self.url, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        _ask(self.url, "SELECT pg_reload_conf()")


def _ask(url: str, statement: str) -> Any:
    """What a statement answers first, if anything."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None  # type: ignore[index]
