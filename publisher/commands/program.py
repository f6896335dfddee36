"""How a command on a puller host ends badly."""

import signal
import sys
from typing import NoReturn

from mirrorfeed.contract import exit_codes

PROGRAM = "mirror-publisher"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def refuse(message: str, exit_code: int = exit_codes.USAGE) -> NoReturn:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    sys.exit(exit_code)
