"""Signals that this process gets while a command runs: they are the command's."""

import os
import select
import signal
import subprocess
import time
from types import FrameType
from typing import Protocol, Self

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""A command that gets one of these is told to end."""
OTHERS = (
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF),
    *(signal.SIGIO, signal.SIGPWR, signal.SIGWINCH),
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
"""These mean to it whatever it likes; without it they would end this process, or be lost."""
READ_BYTES = 1024


class Receiver(Protocol):
    """What signals go to."""

    @property
    def process(self) -> "subprocess.Popen[bytes]": ...

    def send(self, number: int) -> None:
        """Sends it the signal, if it still runs."""


class PassedOnSignals:
    """In this context signals go to the command that runs, not to this process."""

    def __init__(self) -> None:
        self.ending: list[int] = []
        """Those that told the command to end."""
        self._early: list[int] = []
        self._receiver: Receiver | None = None

    def __enter__(self) -> Self:
        self._wakes, self._woken_by = os.pipe()
        os.set_blocking(self._woken_by, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._woken_by, warn_on_full_buffer=False)
        self._previous = {
            number: signal.signal(number, self._pass_on)
            for number in (*ENDING, *OTHERS)
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

    def wait(self, receiver: Receiver, deadline: float | None = None) -> bool:
        """Waits for the process to end, passing on signals meanwhile. Returns False if it has not
        ended at `deadline`, by the monotonic clock.

        If a signal arrives between Python's last check and a waiting system call, it is seen only
        when that call returns: Popen.wait may sleep through it. A pipe keeps it.
        """
        self._receiver = receiver
        while self._early:  # came before this line
            receiver.send(self._early.pop(0))
        while receiver.process.poll() is None:
            left_seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
            woken, _, _ = select.select([self._wakes], [], [], left_seconds)
            if not woken:
                return False
            os.read(self._wakes, READ_BYTES)
        return True

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if number in ENDING:
            self.ending.append(number)
        if self._receiver is None:
            self._early.append(number)
        else:
            self._receiver.send(number)


def end_by(number: int) -> None:
    """Ends this process by the signal, so that whoever started it knows: a shell's loop or xargs
    goes on after an exit code, and ends after an interruption."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
