"""Runs a command as its user would, and says how it ended."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from types import FrameType
from typing import Self

from mirrorfeed.contract.events import MAX_REVISION_LENGTH

COMMAND_NOT_EXECUTABLE = 126
COMMAND_NOT_FOUND = 127
SIGNAL_BASE = 128
"""Exit codes of a shell, POSIX.1-2017 XCU 2.8.2."""
LAST_OUTPUT_SECONDS = 1.0
STANDARD_ERROR = 2
READ_BYTES = 8 * 1024
KEPT_BYTES = 64 * 1024


@dataclass(frozen=True)
class Ended:
    """How a command ended: the exit code to pass on, and why it failed, or None if it did not."""

    exit_code: int
    failure: str | None = None


class PassedOnSignals:
    """In this context SIGTERM and SIGINT go to the command that runs, not to this process."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._wakes, self._woken_by = os.pipe()
        os.set_blocking(self._woken_by, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._woken_by, warn_on_full_buffer=False)
        self._previous = {
            number: signal.signal(number, self._pass_on)
            for number in (signal.SIGTERM, signal.SIGINT)
            if signal.getsignal(number) is not signal.SIG_IGN  # as nohup sets it
        }
        # Without a handler, a child's end wakes nobody; ignored, it would leave no exit code.
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._wakes)
        os.close(self._woken_by)

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """Waits for the process to end, passing on signals meanwhile. Returns its return code.

        If a signal arrives between Python's last check and a waiting system call, it is seen only
        when that call returns: Popen.wait may sleep through it. A pipe keeps it.
        """
        self._process = process
        for number in self.received:  # between its start and this line
            process.send_signal(number)
        while process.poll() is None:
            os.read(self._wakes, READ_BYTES)
        return process.returncode

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if self._process is not None:
            self._process.send_signal(number)


def run_command(arguments: Sequence[str], signals: PassedOnSignals) -> Ended:
    """Runs the command with this process's input and output until it ends.

    Its standard error is passed on, and the last line of that is the reason if it fails. After a
    signal any ending counts as a failure: a command told to end may not have done its work.
    """
    try:
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE)
    except FileNotFoundError:
        return _not_run(COMMAND_NOT_FOUND, f"{arguments[0]}: command not found")
    except OSError as error:
        return _not_run(COMMAND_NOT_EXECUTABLE, f"{arguments[0]}: {error.strerror}")
    last_output = _LastOutput(process)
    exit_code = signals.wait(process)
    last_line = last_output.last_line()
    if signals.received or exit_code < 0:
        number = signals.received[-1] if signals.received else -exit_code
        failure = f"{arguments[0]} was ended by {_signal_name(number)}"
        return Ended(
            exit_code if exit_code > 0 else SIGNAL_BASE + number,
            f"{failure}: {last_line}" if last_line else failure,
        )
    if exit_code > 0:
        return Ended(exit_code, last_line or f"{arguments[0]} exited with code {exit_code}")
    return Ended(0)


def output_of(shell_command: str, signals: PassedOnSignals) -> str | None:
    """The first line that a shell command prints, or None if it fails, prints nothing, or prints
    more than a revision can hold."""
    with TemporaryFile() as output:  # a process it leaves may keep a pipe open
        process = subprocess.Popen(shell_command, shell=True, stdout=output)
        signals.wait(process)
        output.seek(0)
        first_line = output.readline(KEPT_BYTES).decode(errors="replace").strip()
    is_revision = first_line and "\0" not in first_line and len(first_line) <= MAX_REVISION_LENGTH
    return first_line if is_revision and process.returncode == 0 else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _not_run(exit_code: int, failure: str) -> Ended:
    print(failure, file=sys.stderr)
    return Ended(exit_code, failure)


class _LastOutput:
    """Passes on a process's standard error, and remembers the end of it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        self._stderr = process.stderr
        self._tail = b""
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def last_line(self) -> str | None:
        """The last line that is not blank. If a line overwrites itself, its last state counts.

        A process that the command left behind may keep standard error open; do not wait for it.
        """
        self._thread.join(LAST_OUTPUT_SECONDS)
        lines = self._tail.decode(errors="replace").replace("\r", "\n").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), None)

    def _pass_on(self) -> None:
        while chunk := os.read(self._stderr.fileno(), READ_BYTES):
            self._tail = (self._tail + chunk)[-KEPT_BYTES:]
            # The command must be able to go on even if nobody reads our own standard error.
            with suppress(OSError):
                os.write(STANDARD_ERROR, chunk)
