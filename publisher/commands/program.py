"""How a command on a puller host ends badly, and how a service logs."""

import logging
import signal
import sys
from typing import NoReturn

from mirrorfeed.contract import exit_codes

PROGRAM = "mirror-publisher"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def refuse(message: str, exit_code: int = exit_codes.USAGE) -> NoReturn:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    sys.exit(exit_code)


def log_to_standard_error() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # we report its problems ourselves
