"""`make release`, up to what a package index would have to be asked."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from release.build import Built, check_contents, export
from release.changelog import entries
from release.errors import ReleaseError

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
TWINE = """
import sys
from pathlib import Path
assert sys.argv[1:3] == ["check", "--strict"]
print("checked", *(Path(name).name for name in sys.argv[3:]))
"""
"""Stands for twine, which only `make release` installs."""


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=Jane", "-c", "user.email=jane@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What is here, as the only commit of another repository; its entry has a date."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    folder = tmp_path / "clone"
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    log = folder / "CHANGELOG.md"
    log.write_text(log.read_text().replace("## [Unreleased]", f"## [{VERSION}] - 2026-12-01", 1))
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "All of it")


def release(clone: Path) -> "subprocess.CompletedProcess[str]":
    stub = clone.parent / "stub"
    stub.mkdir(exist_ok=True)
    (stub / "twine.py").write_text(TWINE)
    return subprocess.run(
        [sys.executable, "-m", "release", "--root", clone],
        cwd=ROOT,
        env={"PYTHONPATH": str(stub), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_builds_checks_and_says_what_to_publish(clone: Path) -> None:
    """The files are in `dist`, and each is named with its hash and in what is to be typed."""
    result = release(clone)
    assert result.returncode == 0, result.stderr
    names = [f"mirrorfeed-{VERSION}-py3-none-any.whl", f"mirrorfeed-{VERSION}.tar.gz"]
    assert sorted(path.name for path in (clone / "dist").iterdir()) == names
    assert result.stderr == f"checked {' '.join(names)}\n"
    for name in names:
        assert result.stdout.count(str(clone / "dist" / name)) == 2
    assert f"git push origin v{VERSION}\n" in result.stdout

    source = clone.parent / "source"
    export(clone, source, 0o022)
    built = Built(*(clone / "dist" / name for name in names))
    check_contents(built, source)
    (source / "mirrorfeed" / "forgotten.py").touch()
    with pytest.raises(ReleaseError, match=r"lacks mirrorfeed/forgotten\.py"):
        check_contents(built, source)


def test_what_is_not_committed_is_not_published(clone: Path) -> None:
    """Nor is anything else then."""
    (clone / "mirrorfeed" / "new.py").touch()
    result = release(clone)
    assert (result.returncode, result.stdout) == (1, "")
    assert "mirrorfeed/new.py" in result.stderr


def test_a_version_is_published_once(clone: Path) -> None:
    """From its tag it can be built again, and from no other commit."""
    git(clone, "tag", "--annotate", "--message", "it", f"v{VERSION}")
    assert release(clone).returncode == 0
    (clone / "README.md").write_text("A later one.\n")
    commit(clone)
    assert release(clone).stderr.startswith(f"release: v{VERSION} is another commit")


def test_a_version_without_an_entry_is_not_published(clone: Path) -> None:
    """What is new in it stands below its number, with a date."""
    (clone / "CHANGELOG.md").write_bytes((ROOT / "CHANGELOG.md").read_bytes())
    commit(clone)
    unreleased = "Unreleased" in entries((ROOT / "CHANGELOG.md").read_text())
    assert (f"says nothing of [{VERSION}]" in release(clone).stderr) == unreleased


def test_the_changelog_has_its_form() -> None:
    """Every version has an entry, the newest first."""
    found = entries((ROOT / "CHANGELOG.md").read_text())
    assert list(found)[-1] == "0.1.0"
    assert all(found.values())


@pytest.mark.parametrize(
    "text",
    [
        "## 0.2.0\n",
        "## [0.2.0]\n",
        "## [0.2.0] - 2026-13-01\n",
        "## [0.2.0] - 2026-12-01\n## [Unreleased]\n",
        "## [0.2.0] - 2026-12-01\n\n- a change\n",
        "## [0.2.0] - 2026-12-01\n\n### News\n\n- a change\n",
        "## [0.2.0] - 2026-12-01\n\n### Added\n\nA change.\n",
    ],
)
def test_another_form_is_noticed(text: str) -> None:
    """Programs read it, too."""
    with pytest.raises(ReleaseError):
        entries(text)
