"""Upstreams and a puller in a folder of the test's own."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.puller.lying import LyingServer
from tests.pullers import TestPuller
from tests.upstreams import SshServer, Upstream, WebServer, git_daemon, web_server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the servers serve."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    return folder


@pytest.fixture
def upstream(root: Path) -> Upstream:
    """With one commit."""
    found = Upstream(root / "a.git")
    found.commit()
    return found


@pytest.fixture
def web(root: Path) -> Iterator[WebServer]:
    with web_server(root) as server:
        yield server


@pytest.fixture
def daemon(root: Path) -> Iterator[str]:
    with git_daemon(root) as url:
        yield url


@pytest.fixture
def puller(tmp_path: Path) -> TestPuller:
    """One that may use any protocol."""
    return TestPuller(tmp_path, "http", "git", "file", "bzr")


@pytest.fixture
def ssh(tmp_path: Path, puller: TestPuller) -> Iterator[SshServer]:
    """An sshd that the puller knows, and that knows the puller."""
    folder = tmp_path / "ssh"
    folder.mkdir()
    with closing(SshServer(folder)) as server, server.running():
        puller.known_hosts.write_text(server.known_hosts.read_text())
        puller.use_key(server.key)
        yield server


@pytest.fixture
def liar(
    web: WebServer, upstream: Upstream, puller: TestPuller, monkeypatch: pytest.MonkeyPatch
) -> LyingServer:
    """A server of the upstream that adds to it."""
    return LyingServer(web, puller, monkeypatch)
