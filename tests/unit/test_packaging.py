"""What hosts install beside the package."""

import re
import shlex
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from mirrorfeed.contract.supervision import TELL_SECONDS
from tests.commands import SCRIPTS

PACKAGING = Path(__file__).parents[2] / "packaging"
UNITS = sorted(PACKAGING.glob("*.service"))


def commands(unit: Path) -> list[str]:
    lines = unit.read_text().splitlines()
    return [line.split("=", 1)[1] for line in lines if line.startswith("ExecStart=")]


def test_the_debian_package_has_this_version() -> None:
    """Its changelog is where Debian looks."""
    first = (PACKAGING.parent / "debian" / "changelog").read_text().splitlines()[0]
    assert first.startswith(f"mirrorfeed ({version('mirrorfeed')}) ")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_has_nothing_to_say_about_a_unit(unit: Path, tmp_path: Path) -> None:
    """Only the path of the command is changed to one that exists here."""
    installed = tmp_path / unit.name
    installed.write_text(unit.read_text().replace("/usr/local/bin", str(SCRIPTS)))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in result.stderr.splitlines() if unit.name in line]
    assert complaints == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_service_is_a_command_of_ours_and_not_roots(unit: Path) -> None:
    """Each unit runs an existing command as a user of its own that may write only where it must."""
    (command,) = commands(unit)
    program, *arguments = shlex.split(command)
    help_text = subprocess.run(
        [SCRIPTS / Path(program).name, *arguments, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Usage" in help_text
    text = unit.read_text()
    assert "\nUser=mirrorfeed\n" in text
    assert "\nu mirrorfeed " in (PACKAGING / "sysusers.d" / "mirrorfeed.conf").read_text()
    for folder in re.findall(r"^ReadWritePaths=(.*)$", text, re.MULTILINE):
        assert f"\nd {folder} " in (PACKAGING / "tmpfiles.d" / "mirrorfeed.conf").read_text()
    assert "\nProtectSystem=strict\n" in text
    assert "\nNoNewPrivileges=yes\n" in text


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_hears_of_a_service_that_hangs(unit: Path) -> None:
    """Far more often than it asks; and the log has where it hung."""
    text = unit.read_text()
    assert "\nType=notify\n" in text
    (watchdog_seconds,) = map(int, re.findall(r"^WatchdogSec=(\d+)$", text, re.MULTILINE))
    assert watchdog_seconds > 10 * TELL_SECONDS
    assert "\nEnvironment=PYTHONFAULTHANDLER=1\n" in text
