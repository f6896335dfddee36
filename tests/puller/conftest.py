"""Upstreams and a puller in a folder of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pullers import TestPuller
from tests.upstreams import Upstream, WebServer, git_daemon, web_server


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
