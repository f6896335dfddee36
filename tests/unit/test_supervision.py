"""What systemd is told, on a real socket."""

import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from mirrorfeed.contract import supervision
from mirrorfeed.contract.supervision import Supervisor
from tests.stub_service import Stub


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Listens where NOTIFY_SOCKET says."""
    monkeypatch.setattr(supervision, "TELL_SECONDS", 0.0)
    name = str(tmp_path / "notify") if request.param == "path" else f"@mirrorfeed-{uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listening


def told(systemd: socket.socket) -> set[str]:
    """What was told since the last time."""
    lines: set[str] = set()
    try:
        while True:
            lines.update(systemd.recv(4096).decode().split("\n"))
    except BlockingIOError:
        return lines


def test_a_service_is_ready_once(systemd: socket.socket) -> None:
    """For systemd this has no way back; that it waits again is in its status."""
    service = Stub()
    supervisor = Supervisor(service)
    service.waits = "the broker is away"
    supervisor.tell()
    waiting = told(systemd)
    assert waiting == {
        "STATUS=not ready: the broker is away",
        "EXTEND_TIMEOUT_USEC=30000000",
        "WATCHDOG=1",
    }
    service.waits = None
    supervisor.tell()
    assert told(systemd) == {"READY=1", "WATCHDOG=1", "STATUS=ready"}
    service.waits = "the broker is away"
    supervisor.tell()
    assert told(systemd) == {"STATUS=not ready: the broker is away", "WATCHDOG=1"}
    supervisor.stopping()
    assert told(systemd) == {"STOPPING=1", "STATUS=stopping"}


def test_a_service_that_is_not_live_is_not_kept_alive(systemd: socket.socket) -> None:
    """Neither by the watchdog, nor by more time to start."""
    service = Stub()
    service.hangs = "it hangs"
    supervisor = Supervisor(service)
    supervisor.tell()
    assert told(systemd) == {"STATUS=not live: it hangs"}
    supervisor.tell()
    assert told(systemd) == set()


def test_the_watchdog_is_not_called_more_often_than_needed(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the loop turns."""
    monkeypatch.setattr(supervision, "TELL_SECONDS", 3600.0)
    supervisor = Supervisor(Stub())
    supervisor.tell()
    assert "WATCHDOG=1" in told(systemd)
    supervisor.tell()
    assert told(systemd) == set()


@pytest.mark.parametrize("name", ["", "relative", "/nowhere/notify", "@nobody-listens-here"])
def test_a_service_runs_without_systemd(name: str) -> None:
    """Or with one that has gone."""
    supervisor = Supervisor(Stub(), {"NOTIFY_SOCKET": name})
    supervisor.tell()
    supervisor.stopping()
