"""Erase a folder when the process that made it ends: `python -m sandbox.watcher FOLDER`."""

import sys
from pathlib import Path

from sandbox.folder import erase

if __name__ == "__main__":
    sys.stdin.read()
    erase(Path(sys.argv[1]))
