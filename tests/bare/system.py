"""A bare Debian: the smallest system, plus make, git, python3 and python3-venv."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from sandbox import SandboxError
from sandbox.programs import run

ROOT = Path(__file__).resolve().parents[2]
HOME = Path("/var/tmp/mirrorfeed-bare")
"""The pristine systems, of which each run gets a copy, and pip's cache."""
FRESH_SECONDS = 7 * 24 * 3600
INCLUDED = "make,git,python3,python3-venv,ca-certificates"
USER = "ada"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
ENTER = """
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc "$0/proc"
mount --bind /dev "$0/dev"
mount -t tmpfs -o mode=1777 tmpfs "$0/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$0/dev/pts"
mount --bind -o ro "$1" "$0/repository"
mount --bind "$2" "$0/pip-cache"
shift 2
exec chroot "$0" "$@"
"""
APART = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private"),
)
"""Ends with the process that runs it, however that ends."""
ALONE = ("--mount", "--net", "--uts", "--ipc", "--cgroup")
AT_ONCE = (
    *("-o", "Acquire::Retries=0"),
    *("-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20"),
)
"""A mirror that does not answer is no mirror."""
TRIED = "ip link set lo up; mount -t cgroup2 cgroup2 /sys/fs/cgroup"
# In a control group of its own, below which its systemd makes others.
BOOT = """
mount --bind "$0" "$0"
cd "$0"
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
group="sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/mirrorfeed-$(basename "$0")"
mkdir "$group"
mount --bind -o ro "$1" repository
boot=$2
shift 2
code=0
(
    echo 0 > "$group/cgroup.procs" &&
        exec unshare "$@" --pid --fork --kill-child sh -ec "$boot"
) || code=$?
find "$group" -depth -type d -exec rmdir {} +
exit $code
"""
BOOT_ALONE = """
umount sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t proc proc proc
mount --rbind /dev dev
ip link set lo up
cat etc/hostname > /proc/sys/kernel/hostname
exec chroot . env -i container=other /lib/systemd/systemd --unit=typed.service --log-target=null
"""
TYPED = """
[Unit]
Wants=multi-user.target
After=multi-user.target
SuccessAction=exit
FailureAction=exit
FailureActionExitStatus=1

[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=/bin/sh -e /root/typed.sh
StandardOutput=file:/root/typed.log
StandardError=inherit
"""
"""Runs a script once the system is up, and ends the system with it."""


class NotPossible(Exception):
    """This machine cannot run a bare system; the message says why."""


class BareSystem:
    """A disposable system, with a clone of the committed files in each user's `~/mirrorfeed`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self, command: str, *, user: str = "root", expect: int = 0, timeout_seconds: float
    ) -> str:
        """Runs a shell command in a user's clone and returns its output.

        Nothing that it started outlives it. Raises AssertionError if the exit code is not `expect`.
        """
        result = self.try_run(command, user=user, timeout_seconds=timeout_seconds)
        assert result.returncode == expect, f"{command}: {result.returncode}\n{result.stdout}"
        return result.stdout

    def try_run(
        self,
        command: str,
        *,
        user: str = "root",
        variables: Mapping[str, str] = {},
        log: TextIO | None = None,
        timeout_seconds: float,
    ) -> "subprocess.CompletedProcess[str]":
        """The same, whatever its exit code is, and with these environment variables. With a log,
        the output goes there while it comes.

        Raises subprocess.TimeoutExpired.
        """
        home = "/root" if user == "root" else f"/home/{user}"
        clone = "[ -d mirrorfeed ] || git clone -q /repository mirrorfeed; cd mirrorfeed"
        environment = {
            "HOME": home,
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PIP_CACHE_DIR": f"/pip-cache/{user}",
            **{name: value for name, value in os.environ.items() if name.endswith("_proxy")},
            **variables,
        }
        return subprocess.run(
            [
                *APART,
                *("sh", "-ec", ENTER, self.folder, ROOT, HOME / "pip-cache"),
                *("setpriv", "--reuid", user, "--regid", user, "--init-groups"),
                *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
                *("sh", "-ec", f"cd; {clone}; {command}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log or subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )

    def boot(self, command: str, *, timeout_seconds: float) -> str:
        """Starts the system with its services, all ports and no other machine in reach, runs a
        shell command as root, shuts it down, and returns the command's output.

        It needs systemd. Raises AssertionError if the command fails.
        """
        (self.folder / "root" / "typed.sh").write_text(command)
        (self.folder / "etc" / "systemd" / "system" / "typed.service").write_text(TYPED)
        result = subprocess.run(
            [
                *APART,
                *("sh", "-ec", BOOT, self.folder, ROOT, BOOT_ALONE, *ALONE),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
        log = self.folder / "root" / "typed.log"
        said = log.read_text() if log.exists() else ""
        assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}\n{said}"
        return said


def check_possible(suite: str) -> None:
    """Raises NotPossible without root, the right to mount, or a mirror of Debian."""
    if os.geteuid() != 0:
        raise NotPossible("a bare system needs root")
    try:
        run(["unshare", *ALONE, "sh", "-ec", TRIED], timeout_seconds=10)
        release = f"{_mirror()}dists/{suite}/InRelease"
        with TemporaryDirectory() as folder:
            run(
                [
                    "/usr/lib/apt/apt-helper",
                    *AT_ONCE,
                    "download-file",
                    release,
                    f"{folder}/InRelease",
                ],
                timeout_seconds=60,
            )
    except SandboxError as error:
        raise NotPossible(
            f"a bare system needs mounts, namespaces and a mirror of Debian: {error}"
        ) from error


@contextmanager
def bare_system(suite: str) -> Iterator[BareSystem]:
    """A copy of the suite's bare system; nothing of it remains afterwards."""
    base = HOME / suite
    ready = base / "repository"
    if not ready.exists() or time.time() - ready.stat().st_mtime > FRESH_SECONDS:
        _make(suite, base)
    _remove_remains()
    folder = HOME / f"{suite}-{os.getpid()}"
    try:
        run(["cp", "--archive", base, folder], timeout_seconds=300)
        yield BareSystem(folder)
    finally:
        if folder.exists():
            shutil.rmtree(folder)


def _remove_remains() -> None:
    """Removes the copies of runs that were killed."""
    for folder in HOME.glob("*-*"):
        process = folder.name.rpartition("-")[2]
        if process.isdecimal() and not Path("/proc", process).exists():
            shutil.rmtree(folder)


def _make(suite: str, base: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        sys.stderr.write("installing mmdebstrap (apt-get, about 10 MB) ...\n")
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", "mmdebstrap")
    sys.stderr.write(f"making a bare {suite} in {base} (mmdebstrap, about 100 MB to fetch) ...\n")
    shutil.rmtree(base, ignore_errors=True)
    for user in ("root", USER):
        (HOME / "pip-cache" / user).mkdir(parents=True, exist_ok=True)
    options = [f"--aptopt={line}" for line in _apt_settings()]
    source = f"deb {_mirror()} {suite} main"
    run(
        [
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", *options),
            "--dpkgopt=force-unsafe-io",
            *(f"--include={INCLUDED}", suite, base, source),
        ],
        timeout_seconds=900,
    )
    # As Debian's installer writes it, with the host's own name, so that this resolves.
    (base / "etc" / "hosts").write_text("127.0.0.1\tlocalhost\n127.0.1.1\tbare\n::1\tlocalhost\n")
    (base / "etc" / "hostname").write_text("bare\n")
    shutil.copy("/etc/resolv.conf", base / "etc" / "resolv.conf")
    (base / "etc" / "gitconfig").write_text("[safe]\n\tdirectory = *\n")
    _give_pip_settings(base)
    run(["chroot", base, "useradd", "--create-home", USER], timeout_seconds=60)
    (base / "pip-cache").mkdir()
    run(["chown", f"--reference={base}/home/{USER}", HOME / "pip-cache" / USER], timeout_seconds=10)
    (base / "repository").mkdir()  # last: now the base is ready


def _apt_get(*arguments: str) -> None:
    environment: Mapping[str, str] = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", *arguments], timeout_seconds=600, env=environment)


def _mirror() -> str:
    """The mirror of Debian that this machine uses."""
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    uris = run(targets, timeout_seconds=60).stdout.split()
    of_debian = [uri for uri in uris if uri.endswith("/debian/")]
    if not of_debian:
        raise SandboxError("no source in /etc/apt is a mirror of Debian")
    return of_debian[0]


def _apt_settings() -> list[str]:
    """How this machine reaches the mirror, such as through a proxy."""
    dump = run(["apt-config", "dump", "--format", '%f "%v"%n', "Acquire"], timeout_seconds=60)
    return re.findall(r'^Acquire::(?:https?::.+|Check-.+) ".+"$', dump.stdout, re.MULTILINE)


def _give_pip_settings(base: Path) -> None:
    """Gives it this machine's pip settings, except folders, which it does not have."""
    listed = run([sys.executable, "-m", "pip", "config", "list"], timeout_seconds=60).stdout
    shared = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
    settings = {
        name: " ".join(each for each in value.split() if not each.startswith("file:"))
        for name, value in re.findall(r"^[\w:]+\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
        if name in shared
    }
    if CERTIFICATES.exists():
        shutil.copy(CERTIFICATES, base / "etc" / "ssl" / "machine.pem")
        settings["cert"] = "/etc/ssl/machine.pem"
    lines = [f"{name} = {value}" for name, value in settings.items() if value]
    (base / "etc" / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
