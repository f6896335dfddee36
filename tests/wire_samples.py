"""Messages as the contract has them, and as it does not."""

from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from mirrorfeed.contract import wire
from mirrorfeed.contract.events import (
    MAX_BRANCH_ID,
    MAX_SEQUENCE,
    Envelope,
    MirrorCompleted,
    MirrorFailed,
    MirrorStarted,
    ScriptRun,
    SpoolHeartbeat,
)
from mirrorfeed.contract.reasons import Reason
from tests.builders import at, failed

GOLDEN = Path(__file__).parent / "golden"
"""A message of each type, as this and every later version writes it."""

instants = st.datetimes(timezones=st.just(UTC))
texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=255)
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=255)
counts = st.integers(0, MAX_SEQUENCE)
branch_ids = st.integers(1, MAX_BRANCH_ID)
events = st.one_of(
    st.builds(MirrorStarted, branch_ids, instants),
    st.builds(MirrorCompleted, branch_ids, instants, st.none() | texts),
    st.builds(MirrorFailed, branch_ids, instants, texts),
    st.tuples(names, names, instants, instants).map(
        lambda run: ScriptRun(run[0], run[1], min(run[2:]), max(run[2:]))
    ),
    st.builds(SpoolHeartbeat, names, names, counts, st.none() | instants, counts),
)


def body_with(**changes: Any) -> bytes:
    """A good message of branch 1 with some attributes changed; `data` is merged, None removes."""
    document = msgspec.json.decode(wire.encode(failed(1, 0, "reason")))
    document["data"].update(changes.pop("data", {}))
    document.update(changes)
    document = {name: value for name, value in document.items() if value is not None}
    return msgspec.json.encode(document)


NESTED = b"[" * 20_000
REFUSED = {
    "80 KB": (b"x" * 80_000, Reason.TOO_LARGE),
    "empty": (b"", Reason.MALFORMED),
    "invalid UTF-8": (body_with().replace(b"reason", b"r\xff", 2), Reason.MALFORMED),
    "invalid UTF-8 where nobody looks": (
        body_with(extra="HERE").replace(b"HERE", b"\xff"),
        Reason.MALFORMED,
    ),
    "a byte order mark": (b"\xef\xbb\xbf" + body_with(), Reason.MALFORMED),
    "an array": (b"[]", Reason.MALFORMED),
    "20,000 brackets": (NESTED, Reason.MALFORMED),
    "NaN": (body_with(extra="HERE").replace(b'"HERE"', b"NaN"), Reason.MALFORMED),
    "unknown type": (body_with(type="mirror.exploded"), Reason.UNKNOWN_TYPE),
    "unknown type, and nothing else": (b'{"type":"x"}', Reason.UNKNOWN_TYPE),
    "no type": (body_with(type=None), Reason.INVALID),
    "a type that is none": (body_with(type=7), Reason.INVALID),
    "another specversion": (body_with(specversion="0.3"), Reason.INVALID),
    "no id": (body_with(id=None), Reason.INVALID),
    "an empty id": (body_with(id=""), Reason.INVALID),
    "a long id": (body_with(id="x" * 256), Reason.INVALID),
    "no source": (body_with(source=None), Reason.INVALID),
    "another subject": (body_with(subject="2"), Reason.INVALID),
    "another partitionkey": (body_with(partitionkey="branch:2"), Reason.INVALID),
    "a short sequence": (body_with(sequence="1"), Reason.INVALID),
    "sequence 0": (body_with(sequence="0" * 20), Reason.INVALID),
    "a sequence past bigint": (body_with(sequence="9" * 20), Reason.INVALID),
    "no offset": (body_with(time="2026-01-01T00:00:01"), Reason.INVALID),
    "no offset in data": (body_with(data={"started_at": "2026-01-01T00:00:00"}), Reason.INVALID),
    "year 0": (body_with(data={"started_at": "0001-01-01T00:00:00+14:00"}), Reason.INVALID),
    "XML in data": (body_with(datacontenttype="application/xml"), Reason.INVALID),
    "branch 0": (body_with(data={"branch_id": 0}), Reason.INVALID),
    "a branch past bigint": (body_with(data={"branch_id": 2**63}), Reason.INVALID),
    "a branch of 60 digits": (body_with(data={"branch_id": "N"}).replace(b'"N"', b"9" * 60),
                              Reason.INVALID),
    "a fractional branch": (body_with(data={"branch_id": 1.5}), Reason.INVALID),
    "a true branch": (body_with(data={"branch_id": True}), Reason.INVALID),
    "no reason": (body_with(data={"reason": None}), Reason.INVALID),
    "NUL": (body_with(data={"reason": "a\0b"}), Reason.INVALID),
    "half a surrogate pair": (body_with(data={"reason": "H"}).replace(b'"H"', rb'"\ud800"'),
                              Reason.INVALID),
    "a long reason": (body_with(data={"reason": "x" * 8193}), Reason.INVALID),
    "another spool's heartbeat": (
        wire.encode(
            Envelope("id", "/a", at(0), SpoolHeartbeat("vostok", "0.2.0", 0, None, 0))
        ).replace(b'"source":"/a"', b'"source":"/b"'), Reason.INVALID),
    "no data": (body_with(data={}).replace(b'"data"', b'"dada"'), Reason.INVALID),
}  # fmt: skip
"""Messages that no consumer applies, with the reason."""
