"""`docs/asyncapi.yaml` says what `mirrorfeed.contract.wire` does."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from mirrorfeed.contract import routing, wire
from mirrorfeed.contract.events import Envelope, Event
from mirrorfeed.contract.reasons import Reason
from tests.builders import at
from tests.wire_samples import GOLDEN, REFUSED, events

DOCUMENT: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "docs" / "asyncapi.yaml").read_text()
)
CHANNEL = DOCUMENT["channels"]["mirrorEvents"]
MESSAGES = {message["name"]: message for message in DOCUMENT["components"]["messages"].values()}
ANY_PAYLOAD = Draft7Validator(
    {
        "oneOf": [message["payload"] for message in MESSAGES.values()],
        "components": DOCUMENT["components"],
    }
)
BEYOND_SCHEMAS = {
    "another spool's heartbeat",
    "another subject",
    "another partitionkey",
    "year 0",
    "half a surrogate pair",
}
"""Cases that JSON Schema has no words for; the document's description has."""


@pytest.mark.parametrize("event_type", wire.TYPES)
def test_the_examples_are_the_golden_files(event_type: str) -> None:
    """The document shows what is really sent."""
    (example,) = MESSAGES[event_type]["examples"]
    assert example["payload"] == json.loads((GOLDEN / f"{event_type}.json").read_text())


@pytest.mark.parametrize("event_type", wire.TYPES)
def test_an_example_fits_its_own_schema_only(event_type: str) -> None:
    """The four schemas tell the four types apart."""
    payload = json.loads((GOLDEN / f"{event_type}.json").read_text())
    fitting = [
        name
        for name, message in MESSAGES.items()
        if Draft7Validator({**message["payload"], "components": DOCUMENT["components"]}).is_valid(
            payload
        )
    ]
    assert fitting == [event_type]


@given(event=events, sequence=st.none() | st.integers(1, 2**63 - 1))
def test_whatever_is_sent_fits_the_schemas(event: Event, sequence: int | None) -> None:
    """A consumer that validates what arrives refuses none of our events."""
    time = getattr(event, "started_at", at(0))
    envelope = Envelope("id", "/pullers/vostok/x", time, event, sequence)
    ANY_PAYLOAD.validate(json.loads(wire.encode(envelope)))


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, (_, reason) in REFUSED.items()
        if reason in (Reason.INVALID, Reason.UNKNOWN_TYPE) and case not in BEYOND_SCHEMAS
    ],
)
def test_what_the_wire_refuses_the_schemas_refuse(case: str) -> None:
    """Other publishers can find their mistakes before a dead letter shows them."""
    body, _ = REFUSED[case]
    assert not ANY_PAYLOAD.is_valid(json.loads(body))


@pytest.mark.parametrize("case", sorted(BEYOND_SCHEMAS))
def test_only_what_schemas_cannot_say_is_left_to_the_description(case: str) -> None:
    """The list of exceptions has no entry too many."""
    body, _ = REFUSED[case]
    assert ANY_PAYLOAD.is_valid(json.loads(body))


def test_the_channel_is_the_events_exchange() -> None:
    """Its name, kind and routing keys are those of `mirrorfeed.contract.routing`."""
    exchange = CHANNEL["bindings"]["amqp"]["exchange"]
    assert exchange == {
        "name": routing.EVENTS_EXCHANGE,
        "type": "topic",
        "durable": True,
        "autoDelete": False,
    }
    assert tuple(CHANNEL["parameters"]["type"]["enum"]) == wire.TYPES
    key = CHANNEL["address"].replace("{type}", "mirror.started").replace("{slot}", "08")
    assert key == routing.routing_key("mirror.started", "branch:1")


@pytest.mark.parametrize("event_type", wire.TYPES)
def test_messages_carry_the_content_type_and_their_type(event_type: str) -> None:
    """AMQP properties say so without anybody reading the body."""
    assert MESSAGES[event_type]["contentType"] == wire.CONTENT_TYPE
    assert MESSAGES[event_type]["bindings"]["amqp"]["messageType"] == event_type
    assert set(CHANNEL["messages"]) == set(DOCUMENT["components"]["messages"])
