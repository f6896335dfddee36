"""A list in, mirrors on disk, and a branch table that tells the truth."""

import csv
import json
from pathlib import Path

from tests.commands import Shell
from tests.many_upstreams import MAX_MIRROR_BYTES, many_upstreams
from tests.upstreams import refs_of

COUNT = 60
"""`python -m benchmarks pulling` does it with 500."""


def test_the_branch_table_says_what_became_of_each_branch(shell: Shell, tmp_path: Path) -> None:
    """Those that can be are mirrored, and each that is broken, in ten kinds, has its class."""
    with many_upstreams(tmp_path, COUNT) as upstreams:
        branches = tmp_path / "branches.csv"
        with branches.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "unique_name", "url"])
            rows.writerows([each, f"~ada/b{each}", url] for each, url in upstreams.urls.items())
        shell.run("mirror-consumer", "branches", "import", str(branches))
        shell.run(
            *("mirror-puller", "run", str(branches), "--into", str(tmp_path / "mirrors"), "--once"),
            *("--allow-protocol", "http", "--per-host", "8", "--stall-timeout", "3s"),
            *("--max-mirror-bytes", str(MAX_MIRROR_BYTES), "--keep-free-bytes", "0"),
            expect=1,
        )
    shell.run("mirror-publisher", "forward", "--drain")
    shell.run("mirror-consumer", "run", "--drain")
    status = json.loads(shell.run("mirror-consumer", "status", "--json").stdout)
    table = {row["id"]: row for row in status["branches"]}
    failed = {each: row for each, row in table.items() if row["mirror_failures"]}
    assert {
        each: row["mirror_status_message"].partition(":")[0] for each, row in failed.items()
    } == upstreams.expected
    for each in upstreams.urls.keys() - upstreams.expected.keys():
        tip = refs_of(tmp_path / "mirrors" / f"{each}.git")["refs/heads/main"]
        assert table[each]["last_mirrored_id"] == tip
    local = json.loads(
        shell.run("mirror-puller", "status", "--into", str(tmp_path / "mirrors"), "--json").stdout
    )
    assert {
        row["id"]: row["class"] for row in local["branches"] if row["class"]
    } == upstreams.expected
    scripts = json.loads(shell.run("mirror-consumer", "scripts", "--json").stdout)
    assert "branch-puller" in json.dumps(scripts)
