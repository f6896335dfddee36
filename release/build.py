"""Wheel and sdist of one commit, the same bytes wherever they are built."""

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from release.errors import ReleaseError

BESIDE_THE_PACKAGE = {
    *("CHANGELOG.md", "README.md", "packaging/package-index.md", "pyproject.toml", "schema.sql"),
    *(".gitignore", "PKG-INFO"),  # of hatchling
}


@dataclass(frozen=True)
class Built:
    """The files that a package index would get."""

    wheel: Path
    sdist: Path


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def export(root: Path, folder: Path, umask: int) -> None:
    """What the last commit has, and nothing that lies beside it."""
    folder.mkdir(parents=True)
    archive = folder.with_suffix(".tar")
    git(root, "-c", f"tar.umask={umask:04o}", "archive", "--output", str(archive), "HEAD")
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", folder], check=True)


def build(source: Path, into: Path, epoch: int, umask: int) -> Built:
    """From exported sources; times in the files are the epoch's. Raises ReleaseError."""
    result = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", into],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        umask=umask,
        capture_output=True,
        check=False,
        text=True,
    )
    if result.returncode:
        raise ReleaseError(f"it cannot be built: {result.stderr.strip()}")
    (wheel,), (sdist,) = into.glob("*.whl"), into.glob("*.tar.gz")
    return Built(wheel, sdist)


def build_twice(root: Path, folder: Path) -> Built:
    """Two exports with other names, modes and times on the disk must give the same files.

    Raises ReleaseError if they do not, or hold something else than they should.
    """
    epoch = int(git(root, "log", "-1", "--format=%ct"))
    built = []
    for name, umask in (("once", 0o022), ("once-more", 0o077)):
        export(root, folder / name, umask)
        built.append(build(folder / name, folder / f"{name}-built", epoch, umask))
    first, second = built
    for one, other in ((first.wheel, second.wheel), (first.sdist, second.sdist)):
        if one.read_bytes() != other.read_bytes():
            raise ReleaseError(f"{one.name} is not the same when it is built again")
    check_contents(first, folder / "once")
    return first


def package_files(source: Path) -> dict[str, bytes]:
    """What is in the package; the links in mirrorfeed/ lead to its parts."""
    paths = (
        Path(folder) / name
        for folder, _, names in os.walk(source / "mirrorfeed", followlinks=True)
        for name in names
    )
    return {
        str(path.relative_to(source)): path.read_bytes() for path in paths if path.suffix != ".pyc"
    }


def check_contents(built: Built, source: Path) -> None:
    """Raises ReleaseError unless the wheel holds the package and the sdist what it is built from,
    nothing less and nothing more."""
    package = package_files(source)
    with ZipFile(built.wheel) as wheel:
        in_wheel = {
            name: wheel.read(name)
            for name in wheel.namelist()
            if not PurePosixPath(name).parts[0].endswith(".dist-info")
        }
    _compare(built.wheel.name, in_wheel, package)
    with tarfile.open(built.sdist) as sdist:
        in_sdist = {
            str(PurePosixPath(*PurePosixPath(member.name).parts[1:])): file.read()
            for member in sdist
            if (file := sdist.extractfile(member))
        }
    made = {name: in_sdist.get(name, b"") for name in ("PKG-INFO",)}
    beside = {name: (source / name).read_bytes() for name in BESIDE_THE_PACKAGE - {*made}}
    _compare(built.sdist.name, in_sdist, package | beside | made)


def _compare(archive: str, found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    for what, names in (
        ("lacks", expected.keys() - found.keys()),
        ("should not hold", found.keys() - expected.keys()),
        (
            "has another",
            {name for name in found.keys() & expected if found[name] != expected[name]},
        ),
    ):
        if names:
            raise ReleaseError(f"{archive} {what} {', '.join(sorted(names))}")
