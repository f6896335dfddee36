"""A look at each property; `make fuzz` looks longer, and where the code has not been yet."""

from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine

from mirrorfeed.publisher import BranchStatusClient
from tests.fuzz import properties


def test_every_body_is_an_event_or_refused() -> None:
    """With words that can be stored."""
    properties.decoding()


def test_every_message_is_applied_or_buried(engine: Engine) -> None:
    """Whatever it is, and whatever stands near it."""
    properties.applying(engine)()


def test_every_request_is_answered(tmp_path: Path) -> None:
    """By XML-RPC, and never with an error of ours."""
    with closing(BranchStatusClient(tmp_path / "spool.db", forward=False)) as client:
        properties.answering(client)()
