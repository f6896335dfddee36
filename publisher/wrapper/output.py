"""A command's standard error: passed on as it comes, and the end of it kept."""

import fcntl
import os
import termios
import threading
import tty
from contextlib import suppress

STANDARD_STREAMS = (0, 1, 2)
STANDARD_ERROR = 2
READ_BYTES = 8 * 1024
KEPT_BYTES = 64 * 1024
LAST_OUTPUT_SECONDS = 1.0


def has_terminal() -> bool:
    return any(os.isatty(number) for number in STANDARD_STREAMS)


class StandardError:
    """A pipe, or a terminal if ours is one, so that a command shows its progress as it would
    without us. Only the command's standard error is a new terminal: it stays in the session of
    ours, which goes on to send the signals of its keys."""

    def __init__(self) -> None:
        self._is_terminal = False
        if os.isatty(STANDARD_ERROR):
            with suppress(OSError):  # there may be no more of them
                self._from_command, self.for_command = os.openpty()
                self._is_terminal = True
        if self._is_terminal:
            tty.setraw(self.for_command)  # our terminal makes what it shows of a new line
            self.resize()
        else:
            self._from_command, self.for_command = os.pipe()
        self._tail = b""
        self._thread = threading.Thread(target=self._pass_on, daemon=True)

    def begin(self) -> None:
        """The command has started, or could not be."""
        os.close(self.for_command)
        self._thread.start()

    def resize(self) -> None:
        """Our terminal may have another size now."""
        if self._is_terminal:
            with suppress(OSError):  # it may have been closed
                size = fcntl.ioctl(STANDARD_ERROR, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(self._from_command, termios.TIOCSWINSZ, size)

    def tail(self) -> bytes:
        """The end of what the command wrote.

        A process that it left behind may keep its standard error open; do not wait for that.
        """
        self._thread.join(LAST_OUTPUT_SECONDS)
        return self._tail

    def _pass_on(self) -> None:
        while chunk := self._read():
            self._tail = (self._tail + chunk)[-KEPT_BYTES:]
            # The command must be able to go on even if nobody reads our own standard error.
            with suppress(OSError):
                os.write(STANDARD_ERROR, chunk)

    def _read(self) -> bytes:
        try:
            return os.read(self._from_command, READ_BYTES)
        except OSError:  # a terminal's way to say that nobody has it open any more
            return b""
