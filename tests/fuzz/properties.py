"""What holds whatever comes in. Hypothesis looks for counterexamples, and so does a fuzzer."""

from typing import Any
from xmlrpc.client import Fault, loads

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.apply.message import read_message
from mirrorfeed.contract import wire
from mirrorfeed.contract.events import Envelope
from mirrorfeed.publisher import BranchStatusClient
from mirrorfeed.publisher.authserver.calls import XmlRpcCalls, answer_of
from mirrorfeed.publisher.authserver.faults import FaultCode, response
from tests.fuzz.bodies import BRANCHES, bodies
from tests.fuzz.requests import requests

Property = Any
"""A function wrapped by hypothesis, which loses its types."""


@given(bodies)
def decoding(body: bytes) -> None:
    """A body is an event, which means the same when encoded again, or is refused with a text that
    can be stored."""
    content = read_message(body).content
    if isinstance(content, Envelope):
        assert wire.decode(wire.encode(content)) == content
        return
    assert content.detail
    for said in (content.detail, content.source, content.id, content.type):
        assert "\0" not in (said or "")
        (said or "").encode()


def answering(client: BranchStatusClient) -> Property:
    """Every XML-RPC request has an answer: a value, or a fault that says what was wrong."""
    calls = XmlRpcCalls(client)

    @given(requests)
    def request_is_answered(body: bytes) -> None:
        try:
            call = calls.call_of(body)
        except Fault as fault:
            answer = response(fault)
        else:
            call.make()
            answer = answer_of(call)
        answered = fault_in(answer)
        if answered is not None:
            assert answered.faultString
            assert answered.faultCode != FaultCode.INTERNAL_ERROR

    return request_is_answered


def fault_in(answer: bytes) -> Fault | None:
    try:
        loads(answer.decode())
    except Fault as fault:
        return fault
    return None


def applying(engine: Engine) -> Property:
    """Every message of a batch is applied or buried."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO branch (id, unique_name) SELECT id, 'b' || id FROM unnest(:ids) id"
                " ON CONFLICT DO NOTHING"
            ),
            {"ids": list(BRANCHES)},
        )
    applier = Applier(engine)

    @given(st.lists(bodies, min_size=1, max_size=10))
    def batch_is_settled(batch: list[bytes]) -> None:
        tally = applier.apply([read_message(body) for body in batch])
        assert tally.applied + tally.buried.total() == len(batch)

    return batch_is_settled
