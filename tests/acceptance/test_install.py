"""What a puller host gets, and what it does not."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 300


def test_a_puller_host_gets_no_database_library(tmp_path: Path) -> None:
    """`pip install .` imports publisher; the consumer says what it needs."""
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    run(
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "-c",
        str(ROOT / "constraints.txt"),
        str(ROOT),
    )
    run(str(python), "-c", "import mirrorfeed; mirrorfeed.BranchStatusClient")
    run(str(python.with_name("mirror-publisher")), "--help")
    installed = run(str(python), "-m", "pip", "list", "--format=freeze").lower()
    assert "pika==" in installed
    assert "sqlalchemy" not in installed
    assert "psycopg" not in installed
    result = subprocess.run(
        [python, "-c", "import mirrorfeed.consumer"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert "pip install 'mirrorfeed[consumer]'" in result.stderr


def run(*command: str) -> str:
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
        cwd=Path(command[0]).parent,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
