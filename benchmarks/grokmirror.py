"""grokmirror beside `mirror-puller`, if its programs are in PATH (`pip install grokmirror`, in an
environment of its own)."""

import shutil
import subprocess
from pathlib import Path

PROGRAM = "grok-pull"
CONFIG = """\
[core]
toplevel = {into}
manifest = {into}/manifest.js.gz
objstore = {into}/objstore
log = {into}.log
[remote]
site = {site}
manifest = {manifest}
[pull]
pull_threads = {threads}
"""


def is_installed() -> bool:
    return shutil.which(PROGRAM) is not None


class Grokmirror:
    """Mirrors what a site lists in a file that it can read."""

    def __init__(self, folder: Path, site: str, root: Path, threads: int) -> None:
        """The site's repositories are all that are in `root`."""
        self._into = folder / "grokmirror"
        manifest = folder / "manifest.js.gz"
        subprocess.run(["grok-manifest", "-m", manifest, "-t", root], check=True)
        self._config = folder / "grokmirror.conf"
        self._config.write_text(
            CONFIG.format(into=self._into, site=site, manifest=manifest.as_uri(), threads=threads)
        )

    def forget(self) -> None:
        """There are no mirrors any more."""
        shutil.rmtree(self._into, ignore_errors=True)
        self._into.mkdir()

    @property
    def one_pass(self) -> tuple[str, ...]:
        """Reads the list, though it is the same file."""
        return (PROGRAM, "-n", "-c", str(self._config))

    def check(self, count: int) -> None:
        """Raises RuntimeError if there are not so many mirrors."""
        found = len(list(self._into.glob("*.git/grokmirror.fingerprint")))
        if found != count:
            raise RuntimeError(f"grokmirror has made {found} of {count} mirrors")
