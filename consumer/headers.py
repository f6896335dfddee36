"""Keeps the worker alive on AMQP headers that pika cannot decode."""

import struct
from typing import Any

from pika import data

_decode_table = data.decode_table


def tolerate_undecodable_headers() -> None:
    """From now on a table that pika cannot decode is `{"undecodable": bytes}` in this process.

    pika raises from within its I/O loop, for a timestamp in milliseconds or a table nested deeply,
    and the connection ends. So a single message could keep a worker from its queue for ever.
    """
    data.decode_table = _decode_table_or_bytes


def _decode_table_or_bytes(encoded: bytes, offset: int) -> tuple[dict[Any, Any], int]:
    try:
        table, end = _decode_table(encoded, offset)
    except Exception:  # of many kinds, none of them documented
        begin = offset + 4
        end = begin + struct.unpack_from(">I", encoded, offset)[0]
        table = {"undecodable": encoded[begin:end]}
    return table, end
