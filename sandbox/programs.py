"""Programs that the sandbox runs to their end, and what the machine lacks if they fail."""

import re
import subprocess
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from sandbox.errors import SandboxError

SAID_CHARACTERS = 4000
_LACKS = {
    r"No space left on device|\benospc\b": (
        "the disk is full: make room, or set TMPDIR to a folder on another one"
    ),
    r"Cannot allocate memory|could not map anonymous shared memory|Cannot (re)?allocate \d+ bytes"
    r"|Failed to create super carrier|\benomem\b|failed to create( \w+)* thread": (
        "there is too little memory: end other programs, or raise the limit (ulimit -v, or that"
        " of the container)"
    ),
    r"Address already in use|address_in_use|\beaddrinuse\b": (
        "another program has taken one of its ports meanwhile: try again"
    ),
    r"could not (change directory|access directory|open directory).*Permission denied"
    r"|could not (look up|identify) .*directory": (
        "the user postgres may not enter the folder for temporary files: set TMPDIR to one that"
        " all users may enter, such as /tmp"
    ),
}


def run(
    command: Sequence[str | Path],
    *,
    timeout_seconds: float,
    typed: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    expect: Container[int] = (0,),
) -> "subprocess.CompletedProcess[str]":
    """Runs a program to its end and returns what it said; `typed` is its input.

    Raises:
        SandboxError: it is missing, its exit code is not expected, or it did not end in time;
            the message has what it said.
    """
    name = " ".join([Path(command[0]).name, *map(str, command[1:2])])
    try:
        result = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            input=typed,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as timeout:
        said = b"".join(part for part in (timeout.stdout, timeout.stderr) if part)
        raise SandboxError(
            f"{name} did not end within {timeout_seconds:g} s: try again on a less busy machine"
            + quoted(said.decode(errors="replace"))
        ) from None
    except OSError as error:
        raise SandboxError(f"{name} cannot be run: {what_lacks(str(error)) or error}") from error
    if result.returncode not in expect:
        said_by_it = result.stdout + result.stderr
        what = what_lacks(said_by_it)
        raise SandboxError(
            f"{name} failed: {what}"
            if what
            else f"{name} failed with exit code {result.returncode}{quoted(said_by_it)}"
        )
    return result


def what_lacks(said: str) -> str | None:
    """What the machine lacks by a program's words, and the remedy; None if they do not tell."""
    return next((what for words, what in _LACKS.items() if re.search(words, said)), None)


def quoted(said: str) -> str:
    """The end of what a program said, to stand below a message; nothing if it said nothing."""
    text = said.strip()[-SAID_CHARACTERS:]
    return f"; it said:\n{text}" if text else ""
