"""Message bodies that are almost events: most differ from one in a place or two."""

import json
from typing import Any

from hypothesis import strategies as st

from mirrorfeed.contract import wire
from mirrorfeed.contract.wire import MAX_BODY_BYTES
from tests.builders import completed, failed, script_run, started

BRANCHES = (1, 2, 3)
EVENTS = [
    json.loads(wire.encode(envelope))
    for branch in BRANCHES
    for envelope in (
        started(branch, 0),
        completed(branch, 0, "r1"),
        failed(branch, 0, "why"),
        script_run("gc", 0, 1),
    )
]
ATTRIBUTES = [*EVENTS[0], "sequence", "dataschema", "extra"]
FIELDS = sorted({name for event in EVENTS for name in event["data"]})
TELLING = [
    "1.0", "mirror.completed", "branch:1", "1", "\0", "\ud800", "9999-12-31T23:59:59.999999Z",
    "0001-01-01T00:00:00+00:00", "2026-01-01T00:00:00", "2026-01-01T00:00:01.5+23:59",
    "00000000000000000001", "9" * 20, 0, -1, 2**63 - 1, 2**63, 1e999, "x" * 1025, "x" * 8193,
]  # fmt: skip

values = st.recursive(
    st.sampled_from(TELLING)
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """An event with some of its attributes and fields changed or missing."""
    document = dict(draw(st.sampled_from(EVENTS)))
    data = dict(document["data"])
    data |= draw(st.dictionaries(st.sampled_from(FIELDS), values, max_size=2))
    document["data"] = data
    document |= draw(st.dictionaries(st.sampled_from(ATTRIBUTES), values, max_size=2))
    for name in draw(st.sets(st.sampled_from(ATTRIBUTES), max_size=1)):
        document.pop(name, None)
    return document


@st.composite
def damaged(draw: st.DrawFn, inner: st.SearchStrategy[bytes]) -> bytes:
    """A body with a part replaced by something else."""
    body = draw(inner)
    begin = draw(st.integers(0, len(body)))
    end = draw(st.integers(begin, len(body)))
    return body[:begin] + draw(st.binary(max_size=20)) + body[end:]


encoded = documents().map(lambda document: json.dumps(document).encode())
too_large = st.just(json.dumps({**EVENTS[0], "extra": "x" * MAX_BODY_BYTES}).encode())
deep = st.sampled_from(
    [b"[" * 20_000, b'{"data":' * 5_000, b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"]
)
bodies = (
    encoded
    | damaged(encoded)
    | st.binary()
    | values.map(lambda value: json.dumps(value).encode())
    | too_large
    | deep
)
