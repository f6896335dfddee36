"""What a form of ours sends."""

import asyncio
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request

from mirrorfeed.contract.wire import MAX_BODY_BYTES

MOST_BYTES = 4 * MAX_BODY_BYTES
"""An edited letter, in which each character may become three."""
MOST_FIELDS = 500
READ_SECONDS = 10.0
KIND = "application/x-www-form-urlencoded"

Form = ImmutableMultiDict[str, str]


class FormTooLarge(ValueError):
    """More than any form of ours sends."""


async def read_form(request: Request) -> Form:
    """Raises ValueError for what is no form, FormTooLarge, TimeoutError if it comes too slowly, and
    ClientDisconnect."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != KIND:
        raise ValueError(f"only a form is taken here ({KIND})")
    body = bytearray()
    async with asyncio.timeout(READ_SECONDS):
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                raise FormTooLarge(f"the form is larger than {MOST_BYTES:,} bytes")
    fields: Mapping[str, Sequence[str]] = parse_qs(
        body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"
    )
    return ImmutableMultiDict([(name, each) for name, values in fields.items() for each in values])
