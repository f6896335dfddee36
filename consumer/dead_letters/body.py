"""The bytes of a message as text, for people."""

import msgspec


def in_lines(text: str) -> str:
    """JSON is indented; anything else stays as it is."""
    try:
        return msgspec.json.format(text, indent=2)
    except msgspec.DecodeError:
        return text


def text_of(body: bytes) -> str | None:
    """None if it is not UTF-8."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
