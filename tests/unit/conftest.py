"""A spool for the tests that need one."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mirrorfeed.publisher.spool import Spool


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the spool is, or may be made."""
    return tmp_path / "spool.db"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    with closing(Spool(path)) as spool:
        yield spool
