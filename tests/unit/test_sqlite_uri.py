"""SQLite opens the file that was meant, whatever its name is."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mirrorfeed.contract.sqlite_uri import sqlite_uri


@pytest.mark.parametrize("name", ["plain", "a b", "50%41", "a?mode=ro", "a#b", "ä", "\udcff"])
def test_any_name_of_a_file_can_be_opened(tmp_path: Path, name: str) -> None:
    """And nothing in it is taken for something else."""
    path = tmp_path / name
    with closing(sqlite3.connect(sqlite_uri(path, "rwc"), uri=True)) as connection:
        connection.execute("CREATE TABLE x (y)")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(sqlite3.OperationalError):
        sqlite3.connect(sqlite_uri(path.with_name("other"), "rw"), uri=True)
