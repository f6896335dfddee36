"""The servers' programs, from Debian packages that are installed if they are missing."""

import fcntl
import os
import re
import shutil
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sandbox.errors import SandboxError
from sandbox.programs import run

_LOCK = Path("/run/mirrorfeed-sandbox.lock")
_POLICY = Path("/usr/sbin/policy-rc.d")
_LISTS_TIMEOUT_SECONDS = 300
_INSTALL_TIMEOUT_SECONDS = 1800
_ABORTED = 1
"""How apt-get ends after --assume-no, having said what it would do."""
_COMPLAINT = re.compile(r"^(?:W: Failed to fetch|E:) +(.+)$", re.MULTILINE)
_NOT_LISTED = re.compile(r"Unable to locate package|has no installation candidate")


class Package(NamedTuple):
    """A Debian package, where its programs are, and the variable that names a server instead; empty
    if there is none."""

    name: str
    find: Callable[[], Path | None]
    variable: str


def _find_rabbitmq_server() -> Path | None:
    script = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return script if script.exists() else None


def _find_postgresql_programs() -> Path | None:
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if installed:
        return max(installed, key=lambda programs: float(programs.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _find_chromium() -> Path | None:
    on_path = shutil.which("chromium")
    return Path(on_path) if on_path else None


RABBITMQ = Package("rabbitmq-server", _find_rabbitmq_server, "MIRRORFEED_AMQP_URL")
POSTGRESQL = Package("postgresql", _find_postgresql_programs, "MIRRORFEED_DATABASE_URL")

CHROMIUM = Package("chromium", _find_chromium, "")


def prepare_browser() -> None:
    """Installs Debian's chromium, if it may. Tests can do without: they skip what needs it."""
    try:
        _found_or_installed(CHROMIUM)
    except SandboxError as error:
        _say(f"without a browser, its tests are skipped ({error})")


def rabbitmq_server() -> Path:
    """RabbitMQ's own start script: Debian's in /usr/sbin switches to another user.

    Raises:
        SandboxError: it is missing and cannot be installed.
    """
    return _found_or_installed(RABBITMQ)


def postgresql_programs() -> Path:
    """The folder with `initdb` and `postgres` of the newest PostgreSQL installed.

    Raises:
        SandboxError: it is missing and cannot be installed.
    """
    return _found_or_installed(POSTGRESQL)


def _found_or_installed(package: Package) -> Path:
    found = package.find()
    if found is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            missing = _missing(package)
            are = "is" if len(missing) == 1 else "are"
            raise SandboxError(
                f"{_names(missing, ' and ')} {are} not installed: {_remedy(missing)}"
            )
        _install(package)
        found = package.find()
    if found is None:
        raise SandboxError(
            f"{package.name} is installed, but its programs are not where expected: set"
            f" {package.variable} to the URL of a server"
        )
    return found


def _missing(needed: Package) -> list[Package]:
    """What is needed now, and what will be next: who installs the one wants to hear of both."""
    if needed is CHROMIUM:
        return [needed]
    return [
        package
        for package in (RABBITMQ, POSTGRESQL)
        if package.find() is None and (package is needed or not os.environ.get(package.variable))
    ]


def _names(packages: list[Package], between: str) -> str:
    return between.join(package.name for package in packages)


def _remedy(packages: list[Package]) -> str:
    install = (
        f"install what is missing (as root: apt-get install --no-install-recommends"
        f" {_names(packages, ' ')})"
    )
    variables = " and ".join(package.variable for package in packages if package.variable)
    return f"{install}, start Docker, or set {variables}" if variables else install


def _install(needed: Package) -> None:
    packages = _missing(needed)
    install = ("install", "--no-install-recommends", *(package.name for package in packages))
    updated = ""
    try:
        with _one_at_a_time():
            if needed.find() is not None:
                return  # another thread or process has installed it while this one waited
            _say("reading Debian's lists of packages (apt-get update, about 15 MB)")
            updated = _apt_get("update", timeout_seconds=_LISTS_TIMEOUT_SECONDS)
            planned = _apt_get(*install, "--assume-no", timeout_seconds=60, expect=(0, _ABORTED))
            _say(f"installing {_names(packages, ', ')} ({_size(planned)})")
            with _no_service_started():
                _apt_get(*install, "--yes", timeout_seconds=_INSTALL_TIMEOUT_SECONDS)
    except (SandboxError, OSError) as error:
        raise SandboxError(
            f"{_names(packages, ' and ')} cannot be installed ({_reason(str(error), updated)}):"
            f" look after that, or {_remedy(packages)}"
        ) from error


def _size(planned: str) -> str:
    """How much is fetched and how much room that takes, in apt-get's words."""
    packages = re.search(r"(\d+) newly installed", planned)
    fetched = re.search(r"Need to get (?:[\d.,]+ \wB/)?([\d.,]+ \w?B)", planned)
    room = re.search(r"([\d.,]+ \w?B) of additional disk space", planned)
    parts = [
        packages and f"{packages[1]} packages",
        fetched and f"{fetched[1]} to fetch",
        room and f"{room[1]} on the disk",
    ]
    return ", ".join(part for part in parts if part) or "apt-get does not say how much"


def _apt_get(*arguments: str, timeout_seconds: float, expect: Container[int] = (0,)) -> str:
    """What it prints, and what it complains about."""
    # Another apt-get, such as the one that looks for updates each day, is waited for.
    result = run(
        ["apt-get", *arguments, "-q", "-o", "DPkg::Lock::Timeout=120"],
        timeout_seconds=timeout_seconds,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        expect=expect,
    )
    return result.stdout + result.stderr


def _reason(failure: str, updated: str) -> str:
    """The first thing that apt-get could not do.

    For `update` a mirror that it cannot reach is a warning; only `install` then fails, for want of
    the package.
    """
    for said in (updated, failure) if _NOT_LISTED.search(failure) else (failure,):
        if complaint := _COMPLAINT.search(said):
            return " ".join(complaint[1].split())
    return failure


def _say(what: str) -> None:
    sys.stderr.write(f"{what} ...\n")
    sys.stderr.flush()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _no_service_started() -> Iterator[None]:
    """Keep the packages from starting the machine's own services, in the way Debian provides."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
