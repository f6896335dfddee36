"""A server that says what no honest one does: git's HTTP backend, with words put into its mouth."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.pullers import TestPuller
from tests.upstreams import WebServer

_SCRIPT = """#!{python}
import json, subprocess, sys
asked = b"" if sys.argv[1:] != ["http-backend"] else sys.stdin.buffer.read()
said = subprocess.run([{git!r}, *sys.argv[1:]], input=asked, stdout=subprocess.PIPE).stdout
if b"command=ls-refs" in asked:
    lies = json.load(open({lies!r}))
    more = b"".join(b"%04x" % (len(each) + 4) + each for each in map(bytes.fromhex, lies["more"]))
    head, _, body = said.partition(b"\\r\\n\\r\\n")
    if lies["instead"]:
        json.dump({{"more": [], "instead": 0}}, open({lies!r}, "w"))
    said = head + b"\\r\\n\\r\\n" + (b"" if lies["instead"] else body[:-4]) + more + b"0000"
sys.stdout.buffer.write(said)
"""
"""git speaks version 2 of its protocol: gitprotocol-v2(5), `ls-refs`."""


@contextmanager
def redirecting(to: str) -> Iterator[str]:
    """The URL of a server that says of everything that it is below another URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", to + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with HTTPServer(("127.0.0.2", 0), Handler) as server, ThreadPoolExecutor(1) as threads:
        serving = threads.submit(server.serve_forever, 0.05)
        try:
            yield f"http://127.0.0.2:{server.server_port}"
        finally:
            server.shutdown()
            serving.result()


class LyingServer:
    """Lists what there is and more, or nothing of it. The puller's own git is the usual one."""

    def __init__(self, web: WebServer, puller: TestPuller, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = f"{web.url}/git/a.git"
        self._lies = puller.folder / "lies.json"
        folder = puller.folder / "servers"
        folder.mkdir()
        script = folder / "git"
        script.write_text(
            _SCRIPT.format(python=sys.executable, git=shutil.which("git"), lies=str(self._lies))
        )
        script.chmod(0o755)
        self.be_honest()
        puller.also(PATH=os.environ["PATH"])
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def be_honest(self) -> None:
        self.add()

    def add(self, *lines: bytes) -> None:
        """Lists these references, too."""
        self._lies.write_text(json.dumps({"more": [each.hex() for each in lines], "instead": 0}))

    def fail(self, *words: bytes) -> None:
        """Says that instead, as an error, to the next who asks."""
        self._lies.write_text(
            json.dumps({"more": [(b"ERR " + each).hex() for each in words], "instead": 1})
        )
