"""One puller, a process: `python -m tests.faults.campaign.puller BOARD SEED NUMBER CALLS`.

It continues its history from where the spool ends, so that its n-th call is the n-th event no
matter when it was killed. Its client forwards in a thread, to the broker in the environment.
"""

import logging
import os
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from pathlib import Path
from typing import Self
from unittest.mock import patch

from mirrorfeed.contract import environment
from mirrorfeed.publisher import BranchStatusClient, SpoolFull
from tests.faults.campaign.board import Board
from tests.faults.campaign.history import Call, Step, steps
from tests.spools import status_of

PAUSE_SECONDS = 0.01
EXIT_LOST = 9


def main(board_path: str, seed: str, number: str, calls: str) -> int:
    board = Board(Path(board_path))
    path = Path(os.environ[environment.SPOOL])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    spooled = status_of(path).spooled
    if not board.returned <= spooled <= board.returned + 1:
        logging.critical("%d calls had returned, but %d were spooled", board.returned, spooled)
        return EXIT_LOST
    with patch("mirrorfeed.publisher.client.datetime", skewed_by(board)):
        client = BranchStatusClient()
        todo = islice(steps(int(seed), int(number)), spooled, int(calls))
        for index, step in enumerate(todo, spooled):
            while index >= board.granted and not stopping.wait(PAUSE_SECONDS):
                pass
            while not stopping.is_set():
                try:
                    perform(client, step)
                except SpoolFull:
                    board.refused += 1
                    stopping.wait(10 * PAUSE_SECONDS)
                else:
                    board.returned = index + 1
                    break
        stopping.wait()
        client.close()
    return 0


def perform(client: BranchStatusClient, step: Step) -> None:
    match step.call:
        case Call.START:
            client.start_mirroring(step.branch_id)
        case Call.COMPLETE:
            client.mirror_complete(step.branch_id, step.text)
        case Call.FAIL:
            client.mirror_failed(step.branch_id, step.text)
        case Call.SCRIPT:
            run = step.script_run()
            client.record_success(run.name, run.hostname, run.started_at, run.completed_at)


def skewed_by(board: Board) -> type[datetime]:
    """The clock of a host whose time is off by what the board says."""

    class SkewedDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            skew = timedelta(seconds=board.skew_seconds)
            return datetime.now(UTC) + skew  # type: ignore[return-value]  # any datetime will do

    return SkewedDatetime


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
