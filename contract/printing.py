"""The one place that writes to standard output and standard error, for every command.

`guard_output` replaces both streams. Whatever is printed from then on, no matter by which module or
library, passes through an `Output`: text from outside cannot control the terminal, characters that
the encoding does not have are replaced, and an output that cannot be written never ends in a
traceback.
"""

import errno
import io
import json
import os
import sys
from typing import NoReturn, TextIO

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


class OutputFailed(Exception):
    """Standard output cannot be written; the message says why."""


class Output(io.TextIOWrapper):
    """Standard output or standard error, as lines of printable text.

    If the reader of a pipe has gone, the rest is dropped: what a command does, and its exit code,
    do not depend on how much of its output somebody wanted to see. Other trouble with standard
    output raises OutputFailed. Standard error raises nothing, as there is nowhere left to say it,
    and goes on as soon as it can: a log outlives a full disk.
    """

    def __init__(self, descriptor: int, encoding: str, *, is_styled: bool = False) -> None:
        """If `is_styled`, control characters pass: the writer has made its text printable itself,
        and adds colours to it."""
        super().__init__(
            open(descriptor, "wb", closefd=False),  # noqa: SIM115
            encoding=encoding,
            errors="replace",
            line_buffering=descriptor == STANDARD_ERROR or os.isatty(descriptor),
        )
        self._descriptor = descriptor
        self._is_styled = is_styled
        self.is_read = True
        """Whether what is written goes where it should."""

    @property
    def buffer(self) -> NoReturn:
        """Hidden, so that nobody writes past this class."""
        raise AttributeError("what is printed passes through `write`")

    def write(self, text: str, /) -> int:
        """Raises OutputFailed."""
        try:
            super().write(text if self._is_styled else printable_lines(text))
        except OSError as error:
            self._cannot_write(error)
        return len(text)

    def flush(self) -> None:
        """Raises OutputFailed."""
        try:
            super().flush()
        except OSError as error:
            self._cannot_write(error)

    def _cannot_write(self, error: OSError) -> None:
        if self._descriptor == STANDARD_ERROR:
            return
        self.is_read = False
        # Python writes what is in the buffer once more at the end of the process.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)
        if error.errno != errno.EPIPE:
            raise OutputFailed(f"cannot write to standard output: {error.strerror}") from error


def guard_output() -> None:
    """Puts an Output in the place of `sys.stdout` and `sys.stderr`. For a whole process."""
    # A closed one's number would go to the next file or connection. In this one, writing fails.
    while (opened := os.open(os.devnull, os.O_RDONLY)) <= STANDARD_ERROR:
        pass
    os.close(opened)
    sys.stdout = Output(STANDARD_OUTPUT, _encoding(sys.stdout))
    sys.stderr = Output(STANDARD_ERROR, _encoding(sys.stderr))


def styled_output(descriptor: int = STANDARD_OUTPUT) -> Output:
    """For a library that draws on the terminal. What it is given must be `printable`."""
    stream = sys.stdout if descriptor == STANDARD_OUTPUT else sys.stderr
    return Output(descriptor, _encoding(stream), is_styled=True)


def is_output_read() -> bool:
    """False once the reader of standard output has gone: a command that only prints may end."""
    return getattr(sys.stdout, "is_read", True)


def print_json(document: object) -> None:
    """One document on a line of its own, in ASCII: everything else is escaped."""
    print(json.dumps(document))


def printable(text: str) -> str:
    """The text without line breaks or anything else that controls a terminal.

    White space of any kind becomes a space. Other characters that cannot be seen, such as ESC or a
    change of the writing direction, become U+FFFD.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else " " if each.isspace() else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )


def printable_lines(text: str) -> str:
    """The same, but line feeds stay."""
    return "\n".join(map(printable, text.split("\n")))


def _encoding(stream: TextIO | None) -> str:
    return "utf-8" if stream is None else stream.encoding
