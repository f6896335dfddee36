"""Servers in containers, as far as can be told from what an engine is asked."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest
from testcontainers.core.config import testcontainers_config

from sandbox import AMQP_URL, DATABASE_URL, SandboxError
from sandbox.containers import POSTGRESQL_IMAGE, RABBITMQ_IMAGE, ContainerPostgreSQL

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "demo": (sys.executable, "-m", "demo"),
    "sandbox": (sys.executable, "-m", "sandbox"),
}
UNREACHABLE = 'Get "https://registry-1.docker.io/v2/": dial tcp: lookup failed'


class Engine(ThreadingMixIn, UnixStreamServer):
    """Answers as Docker does; it can pull no image and create no container."""

    daemon_threads = True
    images: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.created: list[dict[str, Any]] = []
        super().__init__(str(path), _Request)


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_GET(self) -> None:
        _, _, path = self.path.partition("/v1.45")
        image = path.removeprefix("/images/").removesuffix("/json")
        if self.path.endswith("/_ping"):
            self.answer(200, "OK")
        elif self.path.endswith("/version"):
            self.answer(200, {"ApiVersion": "1.45", "MinAPIVersion": "1.24"})
        elif image in self.server.images:
            self.answer(200, {"Id": f"sha256:{image}"})
        else:
            self.answer(404, {"message": f"No such image: {image}"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/containers/create" in self.path:
            self.server.created.append(json.loads(body))
            self.answer(500, {"message": "there is no room"})
        else:
            self.answer(500, {"message": UNREACHABLE})

    def answer(self, status: int, content: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The only one that is found."""
    with Engine(tmp_path / "docker.sock") as server, ThreadPoolExecutor() as threads:
        serving = threads.submit(server.serve_forever)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{server.server_address!s}")
        monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
        yield server
        server.shutdown()
        serving.result()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_engine_without_images_is_told_with_the_remedy(engine: Engine, command: str) -> None:
    """Which image, why it cannot be pulled, and how to do without."""
    inherited = {
        name: value for name, value in os.environ.items() if name not in (AMQP_URL, DATABASE_URL)
    }
    result = subprocess.run(
        COMMANDS[command], cwd=ROOT, env=inherited, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    pulling, failure = result.stderr.splitlines()
    assert pulling == f"pulling the image {RABBITMQ_IMAGE} ..."
    assert failure.startswith(f"{command}: the container engine has no image {RABBITMQ_IMAGE}")
    assert UNREACHABLE in failure
    assert f"docker pull {RABBITMQ_IMAGE}" in failure
    assert "DOCKER_HOST=unix:///nonexistent" in failure
    assert engine.created == []


def test_a_test_is_told_the_same(engine: Engine) -> None:
    """Where nothing was prepared."""
    with pytest.raises(SandboxError, match=rf"docker pull {POSTGRESQL_IMAGE}.*DOCKER_HOST="):
        ContainerPostgreSQL().start()


def test_databases_of_one_process_have_one_password(engine: Engine) -> None:
    """A URL that names two of them has room for one."""
    engine.images = (POSTGRESQL_IMAGE,)
    for server in (ContainerPostgreSQL(), ContainerPostgreSQL()):
        with pytest.raises(SandboxError, match="there is no room"):
            server.start()
        server.stop()
    first, second = (container["Env"] for container in engine.created)
    assert first == second
    assert any(each.startswith("POSTGRES_PASSWORD=") for each in first)
