"""Runs a command as its user would, and says how it ended."""

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self

from mirrorfeed.contract.events import MAX_REVISION_LENGTH
from mirrorfeed.publisher.reasons import reason_in
from mirrorfeed.publisher.wrapper.output import StandardError, has_terminal
from mirrorfeed.publisher.wrapper.signals import ENDING, PassedOnSignals, signal_name

TIMED_OUT = 124
NOT_EXECUTABLE = 126
NOT_FOUND = 127
SIGNAL_BASE = 128
"""Exit codes as those of timeout(1) and of a shell, POSIX.1-2017 XCU 2.8.2."""
SHELL = "/bin/sh"
KILL_AFTER_SECONDS = 10.0
POLL_SECONDS = 0.05
READ_BYTES = 64 * 1024
FOR_THE_GROUP = (*ENDING, signal.SIGCONT, signal.SIGKILL)


@dataclass(frozen=True)
class Ended:
    """How a command ended: the exit code to pass on, and why it failed, or None if it did not."""

    exit_code: int
    failure: str | None = None


@dataclass(frozen=True)
class Deadline:
    """Until when a command may run, by the monotonic clock."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        return cls(time.monotonic() + seconds, seconds)


@dataclass(frozen=True)
class Running:
    """A command that runs. What tells it to end goes to all of its process group if it has one of
    its own."""

    process: "subprocess.Popen[bytes]"
    standard_error: StandardError | None
    has_own_group: bool

    def send(self, number: int) -> None:
        if number == signal.SIGWINCH and self.standard_error is not None:
            self.standard_error.resize()
        if not self.has_own_group or number not in FOR_THE_GROUP:
            self.process.send_signal(number)
        elif self.process.poll() is None:
            self._send_to_group(number)

    def why(self) -> str | None:
        """What its standard error says about a failure."""
        if self.standard_error is None:
            return None
        return reason_in(self.standard_error.tail().replace(b"\0", b""))  # no event can hold NUL

    def end(self, signals: PassedOnSignals) -> None:
        """Tells it to end, and kills what is left of it after 10 s."""
        deadline = time.monotonic() + KILL_AFTER_SECONDS
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # what is stopped would not even notice
        if not signals.wait(self, deadline):
            self.send(signal.SIGKILL)
            signals.wait(self)
        while self.has_own_group and self._send_to_group(0):
            if time.monotonic() >= deadline:
                self._send_to_group(signal.SIGKILL)
                break
            time.sleep(POLL_SECONDS)

    def _send_to_group(self, number: int) -> bool:
        """Whether anybody was there to get it."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # all that is left runs as another user
        return True


def run_command(
    arguments: Sequence[str],
    signals: PassedOnSignals,
    say: Callable[[str], None],
    *,
    deadline: Deadline | None = None,
    inherited: Sequence[int] = (),
) -> Ended:
    """Runs the command with this process's input and output until it ends.

    Its standard error is passed on, and what that says about a failure is the reason. After a
    signal any ending counts as a failure: a command told to end may not have done its work.

    At the deadline it is told to end, with all that it started and that is still in its process
    group, and killed 10 s later. What has left the group, as a daemon does, goes on. On a terminal
    it is only the command itself: a process group of its own could not read there.
    `inherited` are open files that the command gets, too.
    """
    standard_error = StandardError()
    has_own_group = deadline is not None and not has_terminal()
    try:
        process = _start(arguments, standard_error.for_command, has_own_group, inherited)
    except OSError as error:
        ended = _not_run(arguments[0], error)
        say(str(ended.failure))
        return ended
    finally:
        standard_error.begin()
    running = Running(process, standard_error, has_own_group)
    in_time = signals.wait(running, None if deadline is None else deadline.at)
    if in_time or deadline is None:
        return _ended(arguments[0], running, signals)
    running.end(signals)
    failure = f"{arguments[0]} took longer than {deadline.seconds:g} s and was ended"
    say(failure)
    return Ended(TIMED_OUT, _with_reason(failure, running.why()))


def _start(
    arguments: Sequence[str], standard_error: int, has_own_group: bool, inherited: Sequence[int]
) -> "subprocess.Popen[bytes]":
    group = 0 if has_own_group else None
    try:
        return subprocess.Popen(
            arguments, stderr=standard_error, process_group=group, pass_fds=inherited
        )
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # A script whose first line names no interpreter is the shell's, as for execvp(3).
    script = shutil.which(arguments[0]) or arguments[0]
    return subprocess.Popen(
        [SHELL, script, *arguments[1:]],
        stderr=standard_error,
        process_group=group,
        pass_fds=inherited,
    )


def _not_run(name: str, error: OSError) -> Ended:
    if not isinstance(error, FileNotFoundError):
        exit_code, why = NOT_EXECUTABLE, f"cannot be run: {error.strerror}"
    elif shutil.which(name) is None:
        exit_code, why = NOT_FOUND, "command not found"
    else:
        exit_code, why = NOT_FOUND, "the interpreter that its first line names was not found"
    return Ended(exit_code, f"{name}: {why}")


def _ended(name: str, running: Running, signals: PassedOnSignals) -> Ended:
    exit_code = running.process.returncode
    why = running.why()
    if signals.ending or exit_code < 0:
        number = signals.ending[-1] if signals.ending else -exit_code
        failure = f"{name} was ended by {signal_name(number)}"
        code = exit_code if exit_code > 0 else SIGNAL_BASE + number
        return Ended(code, _with_reason(failure, why))
    if exit_code > 0:
        return Ended(exit_code, why or f"{name} exited with code {exit_code}")
    return Ended(0)


def _with_reason(failure: str, why: str | None) -> str:
    return f"{failure}: {why}" if why else failure


def output_of(
    shell_command: str, signals: PassedOnSignals, *, deadline: Deadline | None = None
) -> str | None:
    """The first line that a shell command prints, or None if it cannot be run, fails, prints
    nothing, prints more than a revision can hold, or does not end in time."""
    try:
        # Not a pipe: a process that it leaves may keep that open. Not a file on a disk, which may
        # be full.
        with os.fdopen(os.memfd_create("revision"), "rb") as output:
            return _revision_in(output, shell_command, signals, deadline)
    except OSError:
        return None


def _revision_in(
    output: BinaryIO, shell_command: str, signals: PassedOnSignals, deadline: Deadline | None
) -> str | None:
    """What is in `output` once the command has written there. Raises OSError."""
    has_own_group = deadline is not None and not has_terminal()
    process = subprocess.Popen(
        shell_command, shell=True, stdout=output, process_group=0 if has_own_group else None
    )
    running = Running(process, None, has_own_group)
    if not signals.wait(running, None if deadline is None else deadline.at):
        running.end(signals)
    output.seek(0)
    first_line = output.readline(READ_BYTES).decode(errors="replace").strip()
    is_revision = first_line and "\0" not in first_line and len(first_line) <= MAX_REVISION_LENGTH
    return first_line if is_revision and process.returncode == 0 else None
