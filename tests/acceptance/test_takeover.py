"""Moving from another system, with the command."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.builders import failed
from tests.commands import Shell
from tests.servers import branch, publish_events, rows

FILE = """\
id,unique_name,url,last_mirror_attempt,last_mirrored,last_mirrored_id,mirror_failures,mirror_status_message
1,~jane/project/main,https://a.org/1,2007-07-05 19:32:01+00,2007-07-01 10:00:00+00,rev-1,3,"no route
to host"
2,~jane/project/idle,,,,,0,
"""


def test_the_first_events_after_the_move_continue_from_there(
    shell: Shell, engine: Engine, topology: str, tmp_path: Path
) -> None:
    """A branch with 3 failures that fails again has 4, though the file is imported twice."""
    file = tmp_path / "branches.csv"
    file.write_text(FILE)
    result = shell.run("mirror-consumer", "branches", "import", str(file))
    assert (
        result.stdout
        == "branches registered: 2 new, 0 already there\nmirror states taken over: 1\n"
    )
    assert branch(engine, 1).mirror_failures == 3
    publish_events(topology, failed(1, 0, "again"))
    shell.run("mirror-consumer", "run", "--drain")
    shell.run("mirror-consumer", "branches", "import", str(file))
    row = branch(engine, 1)
    assert (row.mirror_failures, row.mirror_status_message) == (4, "again")
    assert row.last_mirrored_id == "rev-1"
    assert f"{row.last_mirrored:%Y-%m-%d}" == "2007-07-01"
    assert branch(engine, 2).last_mirror_attempt is None
    shell.run("mirror-consumer", "rebuild", "--dry-run")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,x,,yesterday,,,0,", "'yesterday' is not a time"),
        ("1,x,,2007-07-05 19:32:01,,,0,", "has no time zone"),
        ("1,x,,,,,many,", "'many' is not a number"),
        ("1,x,,2007-07-05 19:32:01+00,2008-01-01 00:00:00+00,,0,", "is after"),
    ],
)
def test_a_file_with_a_bad_state_registers_nothing(
    shell: Shell, engine: Engine, tmp_path: Path, line: str, words: str
) -> None:
    """The error names the line and what is wrong in it."""
    file = tmp_path / "branches.csv"
    file.write_text(f"{FILE.splitlines()[0]}\n3,good,,,,,0,\n{line}\n")
    result = shell.run("mirror-consumer", "branches", "import", str(file), expect=2)
    assert "line 3" in result.stderr
    assert words in result.stderr
    assert rows(engine, "SELECT * FROM branch") == []
