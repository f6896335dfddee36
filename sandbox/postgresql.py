"""A private PostgreSQL cluster from Debian's package `postgresql`."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import psycopg2

from sandbox import packages
from sandbox.errors import SandboxError
from sandbox.folder import PrivateFolder
from sandbox.ports import LOOPBACK
from sandbox.private import PrivateServer
from sandbox.programs import run

_INITDB_TIMEOUT_SECONDS = 120


class PrivatePostgreSQL(PrivateServer):
    """A private cluster with the superuser `mirrorfeed` and a database of that name.

    Its durability is that of a real server: fsync and the like have PostgreSQL's defaults.
    `settings` are further server settings, for example {"log_min_duration_statement": "100"}.
    """

    _folder_prefix = "postgresql"
    _kind = "a private PostgreSQL"
    # "Fast shutdown": SIGTERM would wait until all clients disconnect.
    _shutdown_signal = signal.SIGINT

    def __init__(self, settings: Mapping[str, str] = {}) -> None:
        super().__init__()
        self._settings = settings
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None

    def kill(self) -> None:
        """End the whole cluster with SIGKILL, like a power cut; its data stays."""
        super().kill()
        if self.folder is None:
            return
        lock_file = self.folder.path / "data" / "postmaster.pid"
        if lock_file.exists():
            # A power cut empties the machine's shared memory as well; SIGKILL leaves a segment. Its
            # id is the last field of the seventh line.
            segment = lock_file.read_text().splitlines()[6].split()[-1]
            try:
                run(["ipcrm", "--shmem-id", segment], timeout_seconds=10)
            except SandboxError:
                if segment in _segments():  # else the server has removed it after all
                    raise
            # Otherwise it could take another process that got the old id for itself.
            lock_file.unlink()

    def _create(self, folder: PrivateFolder) -> None:
        # The package makes the user: it must be there before the folder is given to that user.
        programs = packages.postgresql_programs()
        if self._user is not None:
            try:
                shutil.chown(folder.path, self._user, self._user)
            except LookupError:
                raise SandboxError(
                    "PostgreSQL does not run as root, and there is no user postgres: add one"
                    f" (useradd --system {self._user}), or run this as another user"
                ) from None
        self._fill(folder, programs)

    def _fill(self, folder: PrivateFolder, programs: Path) -> None:
        """Makes what `data` holds before the first start."""
        initdb = folder.spawn(
            [
                programs / "initdb",
                "--pgdata=data",
                "--username=mirrorfeed",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--no-instructions",
            ],
            env={},
            user=self._user,
        )
        if initdb.wait(_INITDB_TIMEOUT_SECONDS) != 0:
            raise self._failure("initdb failed")

    def _launch(self, folder: PrivateFolder) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(folder.ports[0]),
            "unix_socket_directories": str(folder.path),
            "max_connections": "100",
            # Files in the data folder, removed with it; the default leaves some in /dev/shm.
            "dynamic_shared_memory_type": "mmap",
            **self._settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return folder.spawn(
            [packages.postgresql_programs() / "postgres", "-D", "data", *options],
            env={},
            user=self._user,
        )

    def _answers(self, folder: PrivateFolder) -> bool:
        server = f"postgresql://mirrorfeed@{LOOPBACK}:{folder.ports[0]}"
        try:
            connection = psycopg2.connect(f"{server}/postgres", connect_timeout=1)
        except psycopg2.OperationalError:
            return False
        with closing(connection), connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'mirrorfeed'")
            if cursor.fetchone() is None:
                cursor.execute("CREATE DATABASE mirrorfeed")
            major, minor = divmod(connection.server_version, 10000)
        self.name = f"PostgreSQL {major}.{minor} (private cluster)"
        self.url = f"{server}/mirrorfeed"
        return True


def _segments() -> set[str]:
    """The ids of all segments of shared memory (sysvipc(7))."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}
