"""What people see: a command on a terminal of its own, and the width of what it writes."""

import os
import pty
import re
import select
import subprocess
import termios
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from tests.commands import Shell
from tests.servers import PATIENCE_SECONDS

STYLE = re.compile(r"\x1b\[[0-9;]*m")
HOME = "\x1b[H"


def cells(line: str) -> int:
    """The width of a line by Unicode's own tables."""
    return sum(
        0
        if unicodedata.category(each) in ("Mn", "Me")
        else 2
        if unicodedata.east_asian_width(each) in "WF"
        else 1
        for each in line
    )


class Terminal:
    """A command on a terminal of its own, and what it has written there, without its colours."""

    def __init__(self, shell: Shell, command: tuple[str, ...], lines: int, columns: int) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (lines, columns))
        own = {"TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines)}
        self.process = subprocess.Popen(
            shell.arguments(command),
            env={**shell.environment(), **own},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._written = b""

    @property
    def written(self) -> str:
        return STYLE.sub("", self._written.decode(errors="replace"))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, pattern: str) -> None:
        """Reads until what was drawn last, from the top of the screen, begins with the pattern."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not re.match(pattern, drawn := self.written.rpartition(HOME)[2], re.DOTALL):
            assert time.monotonic() < deadline, f"no {pattern!r} in {drawn!r}"
            assert self._read(deadline - time.monotonic()), f"it ended: {drawn!r}"

    def wait_for_text(self, text: str) -> None:
        """Reads until the text was written, anywhere."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.written:
            assert time.monotonic() < deadline, f"no {text!r} in {self.written!r}"
            assert self._read(deadline - time.monotonic()), f"it ended: {self.written!r}"

    def end(self) -> int:
        """Reads to the end; the exit code."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._read(deadline - time.monotonic()):
            assert time.monotonic() < deadline, self.written
        return self.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self, timeout_seconds: float) -> bool:
        """Whether the command still has the terminal."""
        if not select.select([self._master], [], [], max(0.0, timeout_seconds))[0]:
            return True
        try:
            new = os.read(self._master, 65_536)
        except OSError:  # Linux's EIO: nobody has it open any more
            return False
        self._written += new
        return bool(new)


@contextmanager
def terminal(shell: Shell, *command: str, lines: int = 24, columns: int = 60) -> Iterator[Terminal]:
    shown = Terminal(shell, command, lines, columns)
    try:
        yield shown
    finally:
        shown.close()
