"""How much a command loads that reports one event: a shell script may run it for each branch."""

import os
import subprocess
import sys
from pathlib import Path

REPORT_ONE = """
import sys
from mirrorfeed.publisher.cli import app
app(["started", "1"], standalone_mode=False)
print(*sys.modules)
"""


def test_a_command_that_reports_one_event_loads_little(tmp_path: Path) -> None:
    """It loads no AMQP client, no tables for terminals, and no second library that checks
    arguments."""
    result = subprocess.run(
        [sys.executable, "-c", REPORT_ONE],
        env={**os.environ, "MIRRORFEED_SPOOL": str(tmp_path / "spool.db")},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {module.split(".")[0] for module in result.stdout.split()}
    assert "sqlite3" in loaded
    assert not loaded & {"pika", "rich", "pydantic", "tenacity", "uvicorn", "defusedxml", "click"}
