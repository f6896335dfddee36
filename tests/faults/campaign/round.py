"""One round: everything starts, faults come and go, everything heals and drains, checks follow."""

import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox import wait_until
from tests.faults.campaign import faults as strikes
from tests.faults.campaign import upkeep
from tests.faults.campaign.checks import complaints, states_out_of_sequence, told_by
from tests.faults.campaign.faults import CALM_SECONDS, has_all_workers
from tests.faults.campaign.schedule import PULLERS, Fault, Kind, Lane, schedule
from tests.faults.campaign.stand import Stand, open_stand
from tests.faults.campaign.witness import Witness
from tests.spools import status_of

DRAIN_SECONDS = 300.0
POLL_SECONDS = 0.05
PACE_SECONDS_A_FAULT = 2.0
"""Calls are spread over the time the faults should take, so that each fault meets some calls."""
DOING = {**strikes.DOING, **upkeep.DOING}
FAULTS_AHEAD = 4
"""How far pullers may run ahead of a fault that waits for its turn. So calls go on while faults
last, and the schedule still holds."""

logger = logging.getLogger(__name__)


class RoundFailed(Exception):
    """A promise did not hold; the text says which, and how to see it again."""


@dataclass(frozen=True)
class Plan:
    """What defines a round; everything else follows from it."""

    seed: int
    events: int
    faults: int
    is_cluster: bool = False

    @property
    def command(self) -> str:
        cluster = " --cluster" if self.is_cluster else ""
        return (
            f"python -m tests.faults.campaign --seed {self.seed} --events {self.events}"
            f" --faults {self.faults}{cluster}"
        )


@dataclass(frozen=True)
class Tally:
    """What happened in a successful round."""

    events: int
    faults: Counter[Kind]
    skipped: dict[Kind, str]
    refused_calls: int
    worker_sessions: int
    puller_connections: int
    states_seen: int
    states_out_of_sequence: int
    longest_stall_seconds: float
    most_megabytes: dict[str, float]
    """The most that any service of a kind had resident, in the first and in the second half."""
    drain_seconds: float
    seconds: float


def run_round(plan: Plan) -> Tally:
    """Raises RoundFailed, and SandboxError if servers cannot be started."""
    calls = plan.events // PULLERS
    faults = schedule(
        plan.seed, events=calls * PULLERS, faults=plan.faults, is_cluster=plan.is_cluster
    )
    began_at = time.monotonic()
    with open_stand(plan.seed, calls=calls, is_cluster=plan.is_cluster) as stand:
        witness = Witness(stand)
        witness.start()
        try:
            with replayable(plan.command, stand):
                do_all(stand, faults, len(faults) * PACE_SECONDS_A_FAULT)
                healed_at = time.monotonic()
                drain(stand)
                drain_seconds = time.monotonic() - healed_at
                end_services(stand)
                witness.stop()
                told = told_by(stand)
                if wrong := complaints(stand, plan.seed, told, witness):
                    raise RoundFailed("\n".join(wrong))
        finally:
            stand.ended.set()
            witness.stop()
        skipped = {}
        if stand.disk is None:
            skipped[Kind.DISK_FULL] = "this user may not mount a file system"
        return Tally(
            events=stand.reported,
            faults=Counter(fault.kind for fault in faults if fault.kind not in skipped),
            skipped=skipped,
            refused_calls=sum(puller.board.refused for puller in stand.pullers),
            worker_sessions=sum(said(each.log, "INFO consuming") for each in stand.workers),
            puller_connections=sum(
                said(each.service.log, "connected to the broker") for each in stand.pullers
            ),
            states_seen=sum(map(len, witness.seen.values())),
            states_out_of_sequence=states_out_of_sequence(witness, told),
            longest_stall_seconds=witness.longest_stall_seconds,
            most_megabytes=witness.most_megabytes(),
            drain_seconds=drain_seconds,
            seconds=time.monotonic() - began_at,
        )


def do_all(stand: Stand, faults: list[Fault], seconds: float) -> None:
    """Does each fault when its point in the history is reached, which takes `seconds` if no fault
    holds the next one up; returns once all are over."""
    events = stand.calls * PULLERS
    pace = events / seconds
    ahead = FAULTS_AHEAD * events / len(faults)
    began_at = time.monotonic()
    doing: dict[Lane, Future[None]] = {}
    with Lanes(stand) as lanes:

        def go_on(next_point: int) -> None:
            """Lets pullers call, and checks that all is well."""
            due = (time.monotonic() - began_at) * pace
            grant(stand, min(next_point + ahead, due))
            if stand.ended.is_set():
                raise RoundFailed("something else has failed")
            for service in stand.services:
                if (ended := service.ended_by_itself) is not None:
                    raise RoundFailed(f"{ended}; the end of its log:\n{tail(service.log)}")
            for lane in [lane for lane, future in doing.items() if future.done()]:
                doing.pop(lane).result()
            stand.ended.wait(POLL_SECONDS)

        for number, fault in enumerate(faults, 1):
            while stand.reported < fault.at_event or not is_free(fault.lane, doing):
                go_on(fault.at_event)
            logger.info("%d of %d, %s", number, len(faults), fault)
            stand.begun.append((time.monotonic(), fault))
            doing[fault.lane] = lanes.submit(fault)
        while doing or stand.reported < events:
            go_on(events)


def is_free(lane: Lane, doing: dict[Lane, Future[None]]) -> bool:
    return not doing if lane is Lane.ALONE else lane not in doing and Lane.ALONE not in doing


class Lanes:
    """One thread per lane; however a round ends, none is left."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._threads = ThreadPoolExecutor(max_workers=len(Lane))

    def submit(self, fault: Fault) -> "Future[None]":
        return self._threads.submit(DOING[fault.kind], self._stand, fault)

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, *_: object) -> None:
        self._stand.ended.set()
        self._threads.shutdown()


def grant(stand: Stand, calls: float) -> None:
    for puller in stand.pullers:
        puller.board.granted = max(
            puller.board.granted, min(stand.calls, round(calls / len(stand.pullers)))
        )


def drain(stand: Stand) -> None:
    """Waits for the services to catch up by themselves, without further faults."""
    wait_until(
        lambda: all(status_of(spool).pending == 0 for spool in stand.all_spools),
        DRAIN_SECONDS,
        "every spool to be empty",
    )
    wait_until(lambda: has_all_workers(stand), CALM_SECONDS, "every worker to be subscribed")


def end_services(stand: Stand) -> None:
    """Each must exit with 0 on SIGTERM; one more worker takes what they left in the queues."""
    wrong = [complaint for each in stand.services if (complaint := each.terminate())]
    if wrong:
        raise RoundFailed("\n".join(wrong))
    last = stand.run("mirror-consumer", "run", "--drain")
    if last.returncode:
        raise RoundFailed(f"mirror-consumer run --drain: {last.returncode}\n{last.stderr}")


@contextmanager
def replayable(command: str, stand: Stand) -> Iterator[None]:
    """If the round fails, keeps its logs and spools, and says how to run it again."""
    try:
        yield
    except Exception as error:
        kept = Path(tempfile.mkdtemp(prefix="mirrorfeed-campaign-failed-"))
        for service in stand.services:
            service.clear_away()
        for file in [*stand.folder.rglob("*.log"), *stand.folder.rglob("*.db*")]:
            if file.is_file():
                shutil.copy(file, kept)
        for server in [*stand.nodes, *stand.databases]:
            if server.folder is not None:
                shutil.copytree(server.folder.path, kept / server.folder.path.name, ignore=not_logs)
        raise RoundFailed(
            f"{type(error).__name__}: {error}\nlogs and spools: {kept}\nrun again: {command}"
        ) from error


def not_logs(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".log")]


def said(log: Path, words: str) -> int:
    with log.open(errors="replace") as lines:
        return sum(words in line for line in lines)


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])
