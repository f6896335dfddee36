"""How a command on a puller host ends badly."""

import signal
from typing import NoReturn

from mirrorfeed.contract import exit_codes

PROGRAM = "mirror-publisher"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Refused(Exception):
    """The command cannot go on; the message says why, and what to do."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def refuse(message: str, exit_code: int = exit_codes.USAGE) -> NoReturn:
    raise Refused(message, exit_code)
