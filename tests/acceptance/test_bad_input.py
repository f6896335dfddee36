"""Messages that are not the contract's, on their way through a real worker."""

import json
import struct

import pika
import pytest
from sqlalchemy import Engine

from mirrorfeed.contract import routing
from mirrorfeed.contract.reasons import Reason
from tests.builders import bodies, failed, started
from tests.commands import Shell
from tests.servers import publish, register_branches, rows
from tests.wire_samples import REFUSED, body_with


def test_bad_messages_are_buried_once_and_disturb_nothing(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """Each is kept byte for byte under its reason, and the good messages among them are applied."""
    register_branches(engine, 1)
    bad = dict(REFUSED)
    bad["unknown branch"] = (
        body_with(subject="404", partitionkey="branch:404", data={"branch_id": 404}),
        Reason.UNKNOWN_BRANCH,
    )
    year_9999 = "9999-12-31T23:59:59Z"
    bad["the year 9999"] = (body_with(time=year_9999), Reason.FROM_THE_FUTURE)
    bad["a start in the year 9999"] = (body_with(data={"started_at": year_9999}),
                                       Reason.FROM_THE_FUTURE)  # fmt: skip
    good = bodies(failed(1, second, "fine") for second in range(len(bad)))
    for _ in range(2):
        for (body, _), good_body in zip(bad.values(), good, strict=True):
            publish(topology, body, good_body)
        shell.run("mirror-consumer", "run", "--drain")
    assert rows(engine, "SELECT mirror_failures FROM branch") == [(len(good),)]
    letters = {
        bytes(row.body): (row.reason, row.attempts, row.state)
        for row in rows(engine, "SELECT * FROM dead_letter")
    }
    assert letters == {body: (reason.value, 2, "dead") for body, reason in bad.values()}


def test_the_clock_tolerance_can_be_set(shell: Shell, engine: Engine, topology: str) -> None:
    """Events from hosts whose clocks are known to be wrong can be let through."""
    register_branches(engine, 1)
    far_off = bodies([started(1, 500_000_000)])[0]
    publish(topology, far_off)
    shell.run("mirror-consumer", "run", "--drain", "--future-tolerance-seconds", "1e9")
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(1,)]


def test_a_letter_tells_what_to_do(shell: Shell, engine: Engine, topology: str) -> None:
    """It also holds what could be read of the event."""
    publish(topology, body_with(subject="404", partitionkey="branch:404", data={"branch_id": 404}),
            headers={"origin": "vostok"})  # fmt: skip
    shell.run("mirror-consumer", "run", "--drain")
    (letter,) = rows(engine, "SELECT * FROM dead_letter")
    assert letter.detail == (
        "branch 404 is not registered: mirror-consumer branches add 404 NAME, then replay"
    )
    assert letter.headers == {"origin": "vostok"}
    assert (letter.branch_id, letter.type) == (404, "mirror.failed")
    assert letter.event_id == json.loads(bytes(letter.body))["id"]


def test_headers_that_pika_cannot_decode_end_no_worker(
    shell: Shell, engine: Engine, topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good message with such headers is applied; a bad one is buried with their bytes."""
    register_branches(engine, 1)
    name, milliseconds = b"\x04when", struct.pack(">cQ", b"T", 1_700_000_000_000)
    good, bad = bodies([failed(1, 0, "why")])[0], b"{"
    with pika.BlockingConnection(pika.URLParameters(topology)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()

        def encode_table(pieces: list[bytes], _table: object) -> int:
            pieces.append(struct.pack(">I", len(name + milliseconds)) + name + milliseconds)
            return len(pieces[-1])

        with monkeypatch.context() as patched:
            patched.setattr("pika.data.encode_table", encode_table)
            for body in (good, bad):
                channel.basic_publish(
                    routing.EVENTS_EXCHANGE,
                    "mirror.failed.00",
                    body,
                    pika.BasicProperties(headers={"when": "as encoded above"}),
                )
    shell.run("mirror-consumer", "run", "--drain")
    assert rows(engine, "SELECT mirror_failures FROM branch") == [(1,)]
    (letter,) = rows(engine, "SELECT reason, headers FROM dead_letter")
    assert letter.reason == "malformed"
    assert "when" in letter.headers["undecodable"]


def test_what_a_policy_takes_from_a_queue_is_applied(
    shell: Shell, engine: Engine, topology: str
) -> None:
    """What arrives in the broker's dead queue is read like any other message."""
    with pika.BlockingConnection(pika.URLParameters(topology)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(routing.DEAD_EXCHANGE, "", bodies([started(1, 0)])[0])
    register_branches(engine, 1)
    shell.run("mirror-consumer", "run", "--drain")
    assert rows(engine, "SELECT count(*) FROM mirror_attempt") == [(1,)]
    assert rows(engine, "SELECT count(*) FROM dead_letter") == [(0,)]
