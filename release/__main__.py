"""Build and check what would be published of the last commit, and say how to publish it:
`python -m release`. It publishes nothing."""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from release import build, changelog
from release.errors import ReleaseError

IMAGE = "docker buildx build --sbom=true --provenance=mode=max --push"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 1 if the version cannot be published."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="a clone of the repository")
    root: Path = parser.parse_args(arguments).root
    try:
        print(prepare(root))
    except ReleaseError as error:
        sys.stderr.write(f"release: {error}\n")
        return 1
    return 0


def prepare(root: Path) -> str:
    """What to publish, and how; raises ReleaseError if there is nothing yet that could be."""
    if changed := build.git(root, "status", "--porcelain"):
        raise ReleaseError(f"commit first, or this is not what would be built:\n{changed}")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    version = project["version"]
    head = build.git(root, "rev-parse", "HEAD")
    tagged = build.git(
        root, "for-each-ref", "--format=%(objectname)%(*objectname)", f"refs/tags/v{version}"
    )
    # Whoever stands on the tag may want to know that it still gives what was published.
    if tagged and not tagged.endswith(head):
        raise ReleaseError(f"v{version} is another commit: raise the version in pyproject.toml")
    entry = changelog.entries((root / "CHANGELOG.md").read_text()).get(version)
    if not entry:
        raise ReleaseError(
            f"CHANGELOG.md says nothing of [{version}]:"
            f" give [Unreleased] the heading [{version}] - YYYY-MM-DD"
        )
    with TemporaryDirectory(prefix="release-") as folder:
        built = build.build_twice(root, Path(folder))
        files = [built.wheel, built.sdist]
        twine = [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)]
        if subprocess.run(twine, check=False, stdout=sys.stderr).returncode:
            raise ReleaseError("a package index would not take it: see above")
        dist = root / "dist"
        shutil.rmtree(dist, ignore_errors=True)
        dist.mkdir()
        published = [Path(shutil.copy(file, dist)) for file in files]
    return instructions(version, head, published)


def instructions(version: str, commit: str, files: Sequence[Path]) -> str:
    hashes = [f"  {hashlib.sha256(file.read_bytes()).hexdigest()}  {file}" for file in files]
    return "\n".join(
        [
            f"mirrorfeed {version} can be published; nothing has been yet."
            " Built twice, the same both times:",
            "",
            *hashes,
            "",
            "What is left to type, in this order:",
            "",
            f"  git tag --annotate --message 'mirrorfeed {version}' v{version} {commit}",
            f"  git push origin v{version}",
            f"  {sys.executable} -m twine upload {' '.join(map(str, files))}",
            f"  {IMAGE} --build-arg REVISION={commit} --tag REGISTRY/mirrorfeed:{version} .",
            f"  {IMAGE} --build-arg REVISION={commit} --target puller"
            f" --tag REGISTRY/mirrorfeed-puller:{version} .",
            "",
            "where REGISTRY is yours; what is in each image is attached to it, as an SBOM. Release"
            f" notes are what CHANGELOG.md says below [{version}].",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
