"""The servers' programs, from Debian's packages, which are installed if they are missing."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.errors import SandboxError

_LOCK = Path("/run/mirrorfeed-sandbox.lock")
_POLICY = Path("/usr/sbin/policy-rc.d")


def rabbitmq_server() -> Path:
    """RabbitMQ's own start script: Debian's in /usr/sbin switches to another user.

    Raises:
        SandboxError: it is missing and cannot be installed.
    """
    return _found_or_installed(_find_rabbitmq_server, "rabbitmq-server", "MIRRORFEED_AMQP_URL")


def postgresql_programs() -> Path:
    """The folder with `initdb` and `postgres` of the newest PostgreSQL installed.

    Raises:
        SandboxError: it is missing and cannot be installed.
    """
    return _found_or_installed(_find_postgresql_programs, "postgresql", "MIRRORFEED_DATABASE_URL")


def _find_rabbitmq_server() -> Path | None:
    script = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return script if script.exists() else None


def _find_postgresql_programs() -> Path | None:
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if installed:
        return max(installed, key=lambda programs: float(programs.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _found_or_installed(find: Callable[[], Path | None], package: str, variable: str) -> Path:
    found = find()
    if found is None:
        remedy = f"install it (apt-get install {package}), start Docker, or set {variable}"
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise SandboxError(f"{package} is not installed: {remedy}")
        with _one_at_a_time():
            # Another process may have installed it while this one waited.
            if find() is None:
                _install(package, remedy)
        found = find()
    if found is None:
        raise SandboxError(f"{package} is installed, but its programs are not where expected")
    return found


def _install(package: str, remedy: str) -> None:
    sys.stderr.write(f"installing Debian package {package} (apt-get) ...\n")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_service_started():
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            result = subprocess.run(
                ["apt-get", *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if result.returncode != 0:
                raise SandboxError(
                    f"{package} cannot be installed: {remedy}\n"
                    f"apt-get {arguments[0]} said:\n{result.stdout[-2000:]}"
                )


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _no_service_started() -> Iterator[None]:
    """Keep the packages from starting the machine's own services, by Debian's means for that."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
