"""A look at each property; `make fuzz` looks longer, and where the code has not been yet."""

from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine

from mirrorfeed.publisher import BranchStatusClient
from tests.fuzz import properties


def test_every_body_is_an_event_or_refused() -> None:
    """The words of a refusal can always be stored."""
    properties.decoding()


def test_every_message_is_applied_or_buried(engine: Engine) -> None:
    """This holds whatever else is in the batch."""
    properties.applying(engine)()


def test_every_request_is_answered(tmp_path: Path) -> None:
    """The answer is XML-RPC and never an error of our own."""
    with closing(BranchStatusClient(tmp_path / "spool.db", forward=False)) as client:
        properties.answering(client)()
