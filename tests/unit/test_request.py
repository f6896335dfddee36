"""The body of an XML-RPC request, as Python's own client sends it."""

import re
import time
from contextlib import suppress
from xmlrpc.client import Fault, dumps

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirrorfeed.publisher.authserver.request import parse_call

ENCODINGS = ["utf-8", "us-ascii", "iso-8859-1", "windows-1252", "koi8-r", "utf-16"]
NO_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Of a carriage return, XML makes a new line."""
SHORT, LONG = 50_000, 500_000


def sent(text: str, encoding: str) -> bytes:
    """As `ServerProxy(encoding=…)` does it."""
    return dumps((text,), "mirrorFailed", encoding=encoding).encode(encoding, "xmlcharrefreplace")


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=st.text(st.characters(exclude_characters="\r")))
def test_any_text_is_taken_in_any_encoding(encoding: str, text: str) -> None:
    """A character that XML cannot hold becomes U+FFFD, and all others stay."""
    name, values = parse_call(sent(text, encoding))
    assert (name, values) == ("mirrorFailed", (NO_XML.sub("\ufffd", text),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\xff\xe4", "\ufffd\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"&#0;&#x0;&#x1b;&#27;", "\ufffd" * 4),
        (b"&#00000000065;&#x000000000041;\0", "AA\ufffd"),
        (b"&#55296;&#xFFFE;&#x110000;&#10000000;&#99999999999999999999;", "\ufffd" * 5),
        (b"&lt;&#9;\x01", "<\t\ufffd"),
    ],
)
def test_what_older_clients_send_is_taken(text: bytes, expected: str) -> None:
    """Python 2 sends bytes as they are, others write a control character as a reference."""
    body = dumps(("Q",), "mirrorFailed").encode().replace(b"Q", text)
    assert parse_call(body) == ("mirrorFailed", (expected,))


@pytest.mark.parametrize(
    "body",
    [
        b"<methodCall>\x01",
        b"<?xml version='1.0' encoding='utf-16'?><methodCall><methodName>\x01</methodName>",
        b"\xff\xfe\x01",
        dumps(("x",), "m").encode().replace(b"x", b"&x;\x01"),
    ],
)
def test_what_is_no_xml_besides_is_refused(body: bytes) -> None:
    """A replaced character does not make a document of it."""
    with pytest.raises(Fault, match="-32700"):
        parse_call(body)


@pytest.mark.parametrize("junk", ["&#1;", "&#", "&#x1", "\x01", "&#" + "9" * 1000])
def test_the_time_is_proportional_to_the_length(junk: str) -> None:
    """Ten times the body takes nothing like a hundred times as long, in processor time."""

    def fastest_seconds(length: int) -> float:
        body = sent("Q\x01", "utf-8").replace(b"Q", (junk * length)[:length].encode())
        return min(seconds_of(body) for _ in range(5))

    assert fastest_seconds(LONG) < 50 * fastest_seconds(SHORT)


def seconds_of(body: bytes) -> float:
    began_at = time.thread_time()
    with suppress(Fault):
        parse_call(body)
    return time.thread_time() - began_at
