"""How much is loaded where little is done: a shell script may report an event for each branch."""

import os
import subprocess
import sys
from pathlib import Path

IMPORT = """
import sys
import mirrorfeed
print(*sys.modules)
"""
REPORT_ONE = """
import sys
from mirrorfeed.publisher.cli import app
app(["started", "1"], standalone_mode=False)
print(*sys.modules)
"""


def loaded_by(program: str, spool: Path) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "MIRRORFEED_SPOOL": str(spool)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(result.stdout.split())


def test_the_import_of_a_puller_loads_little(tmp_path: Path) -> None:
    """No database library and no broker's, nor what commands need."""
    modules = loaded_by(IMPORT, tmp_path / "spool.db")
    assert "mirrorfeed.publisher.client" in modules
    assert not {module.split(".")[0] for module in modules} & {
        *("sqlalchemy", "psycopg2", "pika", "tenacity", "uvicorn", "defusedxml"),
        "prometheus_client",
        *("typer", "click", "rich", "asyncio", "ssl"),
    }
    assert not {module for module in modules if module.startswith("mirrorfeed.consumer")}


def test_a_command_that_reports_one_event_loads_little(tmp_path: Path) -> None:
    """Neither what sends events nor what draws tables, nor another check of arguments."""
    modules = loaded_by(REPORT_ONE, tmp_path / "spool.db")
    loaded = {module.split(".")[0] for module in modules}
    assert "sqlite3" in loaded
    assert not loaded & {
        *("pika", "rich", "pydantic", "tenacity", "uvicorn", "defusedxml", "click"),
        *("prometheus_client", "http"),
    }
    assert "importlib.metadata" not in modules
