"""Where a private server lives: a temporary folder, the processes in it, its ports."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.ports import PortBlock
from sandbox.waiting import wait_until

ROOM_BYTES = 250_000_000


class PrivateFolder:
    """A folder that takes everything with it when it goes: its processes, and three ports.

    A process belongs to the folder if its working directory is there. Process groups would not do:
    PostgreSQL's backends and RabbitMQ's helpers leave the group of the server that started them.

    However the process that made the folder ends, even by SIGKILL, a watcher then erases it all.
    """

    def __init__(self, prefix: str) -> None:
        self._reserved = PortBlock()
        try:
            self.path = Path(tempfile.mkdtemp(prefix=f"mirrorfeed-{prefix}-")).resolve()
        except OSError as error:
            self._reserved.close()
            raise SandboxError(
                f"no temporary folder can be made ({error.strerror}): set TMPDIR to a folder that"
                " can be written and has room"
            ) from error
        self.ports = self._reserved.ports
        self._children: list[subprocess.Popen[bytes]] = []
        # The end of its standard input tells the watcher that this process is gone.
        self._watcher = subprocess.Popen(
            [sys.executable, "-m", "sandbox.watcher", str(self.path)],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def check_room(self, what: str) -> None:
        """Servers that meet a full disk say so late, if at all.

        Raises:
            SandboxError: there is less than a server needs; `what` is that, for people.
        """
        free = shutil.disk_usage(self.path).free
        if free < ROOM_BYTES:
            raise SandboxError(
                f"{self.path.parent} has {free // 1_000_000} MB left, and {what} needs"
                f" {ROOM_BYTES // 1_000_000} MB: make room, or set TMPDIR to a folder on another"
                " disk"
            )

    def spawn(
        self, command: Sequence[str | Path], env: Mapping[str, str], user: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Run a command in the folder, out of reach of the terminal's Ctrl-C.

        It sees only PATH, a UTF-8 locale and `env`, so that settings meant for another server do
        not reach this one, and writes to `output.log`. `user` is the user to run it as, if root.
        """
        with (self.path / "output.log").open("ab") as output:
            child = subprocess.Popen(
                command,
                cwd=self.path,
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        self._children.append(child)
        return child

    def log_tail(self, lines: int = 60) -> str:
        """The last lines of each `*.log` in the folder."""
        tails = []
        for log in sorted(self.path.glob("*.log")):
            text = log.read_text(errors="replace").splitlines()[-lines:]
            tails.append("\n".join([f"--- {log.name}", *text]))
        return "\n".join(tails)

    def kill_processes(self) -> None:
        """End every process in the folder with SIGKILL, and return when none is left."""
        kill_processes_in(self.path)
        for child in self._children:
            child.wait()
        self._children.clear()

    def remove(self) -> None:
        """End what is still running in the folder, remove it and release its ports."""
        self.kill_processes()
        shutil.rmtree(self.path)
        self._reserved.close()
        self._watcher.communicate()


def processes_in(folder: Path) -> list[int]:
    """The ids of the running processes whose working directory is `folder` or below it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                directory = (entry / "cwd").readlink()
            except OSError:  # it ended meanwhile, or belongs to another user
                continue
            if directory.is_relative_to(folder):
                found.append(int(entry.name))
    return found


def kill_processes_in(folder: Path) -> None:
    """End every process in `folder` with SIGKILL, including those that start meanwhile.

    Raises:
        TimeoutError: some are still running after 10 seconds.
    """

    def none_left() -> bool:
        processes = processes_in(folder)
        _send(processes, signal.SIGKILL)
        return not processes

    wait_until(none_left, 10, f"the processes in {folder} to end")


def erase(folder: Path) -> None:
    """End every process in `folder`, then remove it."""
    # On SIGQUIT PostgreSQL frees its shared memory; on SIGKILL it could not.
    _send(processes_in(folder), signal.SIGQUIT)
    with suppress(TimeoutError):
        wait_until(lambda: not processes_in(folder), 2, "a quick end")
    kill_processes_in(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _send(processes: list[int], signal_number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal_number)
