"""What a deployment has beside workers and pullers: forwarder, page, collector, `mirror-puller`;
and the people and timers that type commands and look at the page."""

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPException
from itertools import count
from urllib.request import urlopen

from mirrorfeed.contract import environment, exit_codes
from sandbox.ports import LOOPBACK
from tests.faults.campaign.background import Background
from tests.faults.campaign.schedule import Way
from tests.faults.campaign.services import Service, command
from tests.faults.campaign.stand import Stand, new_spool
from tests.servers import register_branches
from tests.upstreams import Upstream

REPOSITORIES = range(901, 904)
"""Branches that `mirror-puller` mirrors."""
TYPED = range(911, 914)
"""Branches that commands report."""
KEPT = timedelta(minutes=5)
"""What `prune` keeps: more than any outage and any clock's error in a soak."""
PAUSE_SECONDS = 5.0
PRUNE_TURNS = 10
LOOK_SECONDS = 30.0
SECONDS_A_DAY = 86400


class HouseholdFailed(Exception):
    """A command that somebody typed failed, though a command must work during a fault."""


class Household(Background):
    """Its services are among the stand's. What goes wrong ends the soak."""

    def __init__(self, stand: Stand) -> None:
        super().__init__("household", stand.ended.set)
        self._stand = stand
        self._spool = stand.folder / "host.db"
        new_spool(self._spool)
        stand.spools.append(self._spool)
        stand.kept = KEPT
        register_branches(stand.engine, *REPOSITORIES, *TYPED)
        self._upstreams = [Upstream(stand.folder / f"{each}.git") for each in REPOSITORIES]
        for upstream in self._upstreams:
            upstream.commit()
        self._variables = {
            **stand.variables(Way.PULLERS_TO_BROKER),
            environment.SPOOL: str(self._spool),
            environment.KEEP: "1m",
        }
        self.puller = self._service("mirror-puller", "mirror-puller", "run", *self._listed())
        forward_port, page_port, collector_port = stand.ports
        self._looked_at = [
            f"http://{LOOPBACK}:{page_port}/",
            f"http://{LOOPBACK}:{page_port}/branches",
            f"http://{LOOPBACK}:{collector_port}/metrics",
            f"http://{LOOPBACK}:{forward_port}/metrics",
        ]
        self._consumer = stand.variables(Way.WORKERS_TO_BROKER)
        http = f"{LOOPBACK}:{forward_port}"
        self._service("forwarder", "mirror-publisher", "forward", "--http", http)
        self._service("page", "mirror-consumer", "web", "--port", str(page_port))
        http = f"{LOOPBACK}:{collector_port}"
        self._service(
            "collector", "mirror-consumer", "collect", "--http", http, "--interval", "10s"
        )
        self.looks = 0
        """How often the page or metrics answered."""
        self.commands = 0
        """How many commands somebody typed."""

    def start(self) -> None:
        for service in self._stand.others:
            service.start()
        super().start()

    def _service(self, name: str, program: str, *arguments: str) -> Service:
        variables = self._variables if program != "mirror-consumer" else self._consumer
        service = Service(name, command(program, *arguments), variables, self._stand.folder)
        self._stand.others.append(service)
        return service

    def _listed(self) -> list[str]:
        """A list of the repositories, and how to mirror them."""
        listed = self._stand.folder / "branches.csv"
        rows = [
            f"{number},b{number},{upstream.path.as_uri()}"
            for number, upstream in zip(REPOSITORIES, self._upstreams, strict=True)
        ]
        listed.write_text("\n".join(["id,unique_name,url", *rows, ""]))
        options = {
            "--into": str(self._stand.folder / "mirrors"),
            "--interval": "20s",
            "--allow-protocol": "file",
            "--stop-timeout": "5s",
            "--keep-free-bytes": "0",
        }
        return [str(listed), "--no-forward", *(word for each in options.items() for word in each)]

    def _work(self) -> None:
        """Types and looks, in turn. A command of a puller's host never fails, whatever is away."""
        turns: list[Callable[[int], None]] = [self._wrap, self._commit, self._report, self._run]
        for number in count():
            if self._stopping.wait(PAUSE_SECONDS):
                return
            turns[number % len(turns)](number)
            if number % PRUNE_TURNS == 0:
                self._prune()
            for url in self._looked_at:
                with suppress(OSError, HTTPException), urlopen(url, timeout=LOOK_SECONDS) as page:
                    page.read()
                    self.looks += 1

    def _wrap(self, number: int) -> None:
        self._type(*("mirror-publisher", "run", "--branch", self._typed(number), "--", "true"))

    def _commit(self, number: int) -> None:
        self._upstreams[number % len(self._upstreams)].commit(text=f"{number}")

    def _report(self, number: int) -> None:
        branch = self._typed(number)
        self._type("mirror-publisher", "started", branch)
        if number % 3:
            self._type("mirror-publisher", "completed", branch, f"revision-{number}")
        else:
            self._type("mirror-publisher", "failed", branch, f"reason {number}")

    def _run(self, number: int) -> None:
        self._type("mirror-publisher", "run-script", "nightly", "--", "true")

    def _prune(self) -> None:
        days = KEPT.total_seconds() / SECONDS_A_DAY
        done = self._stand.run("mirror-consumer", "prune", "--keep", str(days))
        self.commands += 1
        if done.returncode not in (0, exit_codes.UNREACHABLE):
            raise HouseholdFailed(f"prune: {done.returncode}\n{done.stderr}")

    def _type(self, *arguments: str) -> None:
        done = subprocess.run(
            command(*arguments),
            env={**os.environ, **self._variables},
            capture_output=True,
            text=True,
            check=False,
        )
        self.commands += 1
        if done.returncode:
            raise HouseholdFailed(f"{' '.join(arguments)}: {done.returncode}\n{done.stderr}")

    def _typed(self, number: int) -> str:
        return str(TYPED[number % len(TYPED)])
