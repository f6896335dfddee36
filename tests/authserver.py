"""An authserver of the test's own, and connections to it."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mirrorfeed.contract import environment
from tests.commands import Shell

NOBODY_LISTENS = "amqp://guest:guest@127.0.0.1:1/%2F"
PATIENCE_SECONDS = 10


def shell_of(path: Path, **variables: str) -> Shell:
    """Where no broker is, so that all stays in the spool."""
    return Shell({environment.SPOOL: str(path), environment.AMQP_URL: NOBODY_LISTENS, **variables})


@contextmanager
def authserver(shell: Shell, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL at which the command says that it listens, and its process."""
    with shell.running("mirror-publisher", "authserver", "--port", "0", *options) as process:
        yield url_of(process), process


def url_of(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"listens on (https?://\S+)", line):
            return found[1]
    pytest.fail("it ended before it listened")


def connect(url: str, source: str = "127.0.0.1") -> socket.socket:
    """A connection from that address of this host."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    address = (parts.hostname, parts.port)
    return socket.create_connection(address, PATIENCE_SECONDS, (source, 0))


def log_after_sigterm(process: "subprocess.Popen[str]") -> str:
    process.terminate()
    _, log = process.communicate(timeout=PATIENCE_SECONDS)
    return log
