"""What the commands that run rounds have in common."""

import logging
import random
import sys
from collections.abc import Callable

from sandbox import SandboxError
from tests.faults.campaign.round import RoundFailed


def log_to_standard_error() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("pika", "tests.faults.campaign.proxy"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


def seed_or_random(given: int | None) -> int:
    return random.randrange(2**31) if given is None else given


def exit_code_of(run: Callable[[], int]) -> int:
    """1 if a promise did not hold, 3 if servers cannot be started."""
    try:
        return run()
    except RoundFailed as failure:
        print(f"FAILED\n{failure}")
        return 1
    except SandboxError as error:
        print(f"cannot begin: {error}", file=sys.stderr)
        return 3
