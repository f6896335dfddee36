"""XML-RPC requests that are almost calls."""

from datetime import UTC, datetime
from typing import Any
from xmlrpc.client import Binary, DateTime, dumps

from hypothesis import strategies as st

from tests.fuzz.bodies import damaged

METHODS = (
    "startMirroring",
    "mirrorComplete",
    "mirrorFailed",
    "recordSuccess",
    "system.listMethods",
    "system.methodHelp",
    "__class__",
)
START = datetime(2026, 1, 1, tzinfo=UTC)
CHARACTERS = st.characters(exclude_categories=["Cs"])

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.floats(allow_nan=False)
    | st.text(CHARACTERS)
    | st.binary().map(Binary)
    | st.sampled_from(
        [1, "r1", list(START.utctimetuple()), DateTime(START), DateTime("20261301T")]
    ),
    lambda inner: (
        st.lists(inner, max_size=9) | st.dictionaries(st.text(CHARACTERS), inner, max_size=2)
    ),
    max_leaves=12,
)


def encoded(method: str, parameters: list[Any]) -> bytes:
    return dumps(tuple(parameters), method, allow_none=True).encode()


calls = st.builds(
    encoded,
    st.sampled_from(METHODS) | st.text(CHARACTERS, max_size=9),
    st.lists(values, max_size=4),
)
requests = calls | damaged(calls) | st.binary()
