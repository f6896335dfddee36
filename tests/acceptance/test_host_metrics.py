"""What Prometheus is told of a puller host, with a service and without."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirrorfeed.amqp.connections import broker_channel, connection_parameters
from mirrorfeed.contract import environment, routing
from sandbox.ports import LOOPBACK, PortBlock
from tests.commands import Shell
from tests.probes import ask, samples, says
from tests.servers import wait_for

ACCOUNT = {"spooled_total": 2, "confirmed_total": 2, "pending_events": 0, "refused_events": 0}


@pytest.fixture
def port() -> Iterator[int]:
    block = PortBlock()
    yield block.ports[0]
    block.close()


def named(text: str) -> dict[str, float]:
    """None of them has a label."""
    return {key[0]: value for key, value in samples(text).items() if len(key) == 1}


def test_a_forwarder_shows_its_spool(shell: Shell, port: int) -> None:
    """Its account, its size, and whether the broker takes what it sends."""
    for number in ("1", "2"):
        shell.run("mirror-publisher", "started", number)

    def found() -> dict[str, float]:
        return named(ask(port, "/metrics").text)

    with shell.running("mirror-publisher", "forward", "--http", f"{LOOPBACK}:{port}"):
        wait_for(lambda: says(port, "/ready") == 200, "the forwarder")
        wait_for(lambda: found().get("mirrorfeed_spool_confirmed_total") == 2, "the confirms")
        seen = found()
        assert (
            ACCOUNT.items()
            <= {
                name.removeprefix("mirrorfeed_spool_"): value for name, value in seen.items()
            }.items()
        )
        assert seen["mirrorfeed_forwarder_connected"] == 1
        assert seen["mirrorfeed_spool_size_bytes"] < seen["mirrorfeed_spool_limit_bytes"] == 2**30
        spool = Path(shell.variables[environment.SPOOL])
        assert seen["mirrorfeed_forwarder_last_confirm_timestamp_seconds"] == pytest.approx(
            spool.stat().st_mtime, abs=60
        )
        assert "mirrorfeed_spool_oldest_pending_timestamp_seconds" not in seen


def test_a_key_that_the_broker_does_not_take_is_counted(shell: Shell, port: int) -> None:
    """There is no queue for it; and how long its event has waited is known."""
    shell.run("mirror-publisher", "started", "1")
    with (
        broker_channel(connection_parameters(shell.variables[environment.AMQP_URL])) as channel,
        shell.running("mirror-publisher", "forward", "--http", f"{LOOPBACK}:{port}"),
    ):
        wait_for(lambda: says(port, "/ready") == 200, "the forwarder")
        for queue in routing.partition_queues(routing.DEFAULT_PARTITIONS):
            channel.queue_delete(queue)
        shell.run("mirror-publisher", "started", "2")

        def is_held() -> bool:
            seen = named(ask(port, "/metrics").text)
            is_late = "mirrorfeed_spool_oldest_pending_timestamp_seconds" in seen
            return is_late and seen["mirrorfeed_forwarder_held_keys"] == 1

        wait_for(is_held, "the key to be held")


def test_a_host_without_a_service_writes_a_text_file(shell: Shell, tmp_path: Path) -> None:
    """Whole, and for another user to read, whatever the umask is."""
    shell.run("mirror-publisher", "started", "1")
    file = tmp_path / "metrics" / "mirrorfeed.prom"
    file.parent.mkdir()
    before = os.umask(0o077)
    try:
        result = shell.run("mirror-publisher", "status", "--textfile", str(file))
    finally:
        os.umask(before)
    assert result.stdout == result.stderr == ""
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(file.parent.iterdir()) == [file]
    seen = named(file.read_text())
    assert seen["mirrorfeed_spool_pending_events"] == 1
    assert seen["mirrorfeed_spool_oldest_pending_timestamp_seconds"] == pytest.approx(
        file.stat().st_mtime, abs=60
    )
    assert not {name for name in seen if name.startswith("mirrorfeed_forwarder_")}


def test_a_text_file_that_cannot_be_written_is_named(shell: Shell, tmp_path: Path) -> None:
    """And what is there stays."""
    shell.run("mirror-publisher", "started", "1")
    file = tmp_path / "nowhere" / "mirrorfeed.prom"
    result = shell.run("mirror-publisher", "status", "--textfile", str(file), expect=2)
    assert f"the metrics cannot be written to {file}: No such file or directory;" in result.stderr


def test_a_text_file_has_one_spool(shell: Shell, tmp_path: Path) -> None:
    """Which one would not be told apart in it."""
    file = str(tmp_path / "mirrorfeed.prom")
    result = shell.run("mirror-publisher", "status", "--all", "--textfile", file, expect=2)
    assert "--textfile excludes --all and --json" in result.stderr
