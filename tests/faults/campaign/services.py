"""The processes that faults hit: started, killed, frozen, started again."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.commands import SCRIPTS

ROOT = Path(__file__).resolve().parents[3]
TERM_SECONDS = 10.0
"""How long a service may take to exit (guarantee 13)."""


class Service:
    """A named process, started again after the campaign killed it, as systemd would."""

    def __init__(
        self, name: str, command: Sequence[str], variables: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False
        self._lock = threading.Lock()

    def start(self) -> None:
        with self._lock, self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            self._is_killed = False

    def kill(self) -> None:
        """SIGKILL; it stays dead until `start`."""
        with self._lock:
            self._is_killed = True
            self._running.kill()
            self._running.wait()

    def freeze(self) -> None:
        self._running.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running.send_signal(signal.SIGCONT)

    def terminate(self) -> str | None:
        """Sends SIGTERM; returns what was wrong with how it ended, if anything."""
        process, self._is_killed = self._running, True
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(TERM_SECONDS)
        except subprocess.TimeoutExpired:
            return f"{self.name} did not exit within {TERM_SECONDS:g} s of SIGTERM"
        return f"{self.name} exited with {code} on SIGTERM" if code else None

    def clear_away(self) -> None:
        """Ends it for good, in whatever state it is."""
        if self._process is not None:
            self.kill()

    @property
    def ended_by_itself(self) -> str | None:
        """A complaint if it is not running although nobody ended it, else None."""
        with self._lock:
            if self._process is None or self._is_killed or (code := self._process.poll()) is None:
                return None
            return f"{self.name} exited by itself, with {code}"

    @property
    def resident_megabytes(self) -> float | None:
        """Its resident memory now, in MB of 10^6 bytes; None if it is not running."""
        found = self._status("VmRSS")
        return None if found is None else found * 1024 / 1e6

    @property
    def threads(self) -> int | None:
        """How many it has now; None if it is not running."""
        return self._status("Threads")

    @property
    def open_files(self) -> int | None:
        """How many it has open now, connections among them; None if it is not running."""
        with suppress(OSError):
            if self._process is not None:
                return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))
        return None

    def _status(self, field: str) -> int | None:
        if self._process is None:
            return None
        with suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    return int(line.split()[1])
        return None

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, f"{self.name} was never started"
        return self._process


def command(name: str, *arguments: str) -> list[str]:
    """One of the installed commands."""
    return [str(SCRIPTS / name), *arguments]


def module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]
