"""How SQLite is told which file to open, and what for."""

import os
from pathlib import Path
from urllib.parse import quote


def sqlite_uri(path: Path, mode: str) -> str:
    """The URI of a file, to be opened in this mode: `ro`, `rw` or `rwc`
    (https://www.sqlite.org/uri.html).

    With `Path.as_uri` each command would load a client for HTTP, as of Python 3.14.
    """
    return f"file://{quote(os.fsencode(path.absolute()))}?mode={mode}"
