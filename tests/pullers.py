"""A puller for tests: a list, mirrors and a spool in a folder of their own."""

import csv
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mirrorfeed.contract.events import MirrorCompleted, MirrorFailed, MirrorStarted, ScriptRun
from mirrorfeed.puller.state import BranchState, State
from sandbox import wait_until
from tests.commands import Shell
from tests.spools import spooled
from tests.upstreams import refs_of

PATIENCE_SECONDS = 30.0
FAST = ("--no-forward", "--keep-free-bytes", "0", "--maintenance-interval", "0s")


class TestPuller:
    """`mirror-puller`, as a user types it."""

    __test__ = False

    def __init__(self, folder: Path, *protocols: str) -> None:
        self.folder = folder
        self.list = folder / "branches.csv"
        self.into = folder / "mirrors"
        self.spool = folder / "spool.db"
        self.known_hosts = folder / "known_hosts"
        self.git_config = folder / "gitconfig"
        self.shell = Shell(
            {
                "MIRRORFEED_SPOOL": str(self.spool),
                "MIRRORFEED_PULLER_INTO": str(self.into),
                "MIRRORFEED_PULLER_ALLOW_PROTOCOL": " ".join(protocols),
                "MIRRORFEED_PULLER_KNOWN_HOSTS": str(self.known_hosts),
                "MIRRORFEED_PULLER_GIT_CONFIG": str(self.git_config),
                "HOME": str(folder),
            }
        )

    def also(self, **variables: str) -> None:
        """With these in its environment from now on."""
        self.shell = Shell({**self.shell.variables, **variables})

    def use_key(self, key: Path) -> None:
        """Its ssh has that key, and no other."""
        self.also(MIRRORFEED_PULLER_SSH_KEY=str(key), SSH_AUTH_SOCK="/nowhere")

    def write_list(self, urls: Iterable[str] | dict[int, str], **columns: str) -> None:
        """Numbers the URLs from 1, unless they have numbers."""
        numbered = urls if isinstance(urls, dict) else dict(enumerate(urls, start=1))
        new = self.list.with_suffix(".new")
        with new.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "unique_name", "url", *columns])
            rows.writerows(
                [each, f"~ada/b{each}", url, *columns.values()] for each, url in numbered.items()
            )
        new.replace(self.list)

    def mirror(self, branch_id: int = 1) -> Path:
        return self.into / f"{branch_id}.git"

    def refs(self, branch_id: int = 1) -> dict[str, str]:
        return refs_of(self.mirror(branch_id))

    def once(self, *options: str, expect: int = 0) -> str:
        """Mirrors all in one pass; what it logs."""
        return self.shell.run(*self.command("--once", "--all", *options), expect=expect).stderr

    def command(self, *options: str) -> tuple[str, ...]:
        return ("mirror-puller", "run", str(self.list), *FAST, *options)

    def sync(self, *which: str, expect: int = 0) -> str:
        return self.shell.run("mirror-puller", "sync", "--no-forward", *which, expect=expect).stdout

    def status(self) -> Any:
        return json.loads(self.shell.run("mirror-puller", "status", "--json").stdout)

    def start(self, *options: str) -> "subprocess.Popen[str]":
        return self.shell.start(*self.command(*options))

    @contextmanager
    def service(self, *options: str) -> Iterator["subprocess.Popen[str]"]:
        """In the end it must exit with 0 on SIGTERM."""
        with self.shell.running(*self.command(*options)) as process:
            yield process

    def events(self, branch_id: int = 1) -> list[MirrorStarted | MirrorCompleted | MirrorFailed]:
        """What was reported of a branch."""
        if not self.spool.exists():
            return []
        return [
            each.event
            for each in spooled(self.spool)
            if isinstance(each.event, MirrorStarted | MirrorCompleted | MirrorFailed)
            and each.event.branch_id == branch_id
        ]

    def passes(self) -> list[ScriptRun]:
        return [each.event for each in spooled(self.spool) if isinstance(each.event, ScriptRun)]

    def outcomes(self, branch_id: int = 1) -> list[str]:
        """Of each attempt of a branch: the revision, the class of the failure, or `open`."""
        attempts: dict[Any, str] = {}
        for event in self.events(branch_id):
            match event:
                case MirrorStarted():
                    attempts.setdefault(event.started_at, "open")
                case MirrorCompleted():
                    attempts[event.started_at] = str(event.revision_id)
                case MirrorFailed():
                    attempts[event.started_at] = event.reason.partition(":")[0]
        return [attempts[each] for each in sorted(attempts)]

    def outcome(self, branch_id: int = 1) -> str:
        """Of the latest attempt."""
        return self.outcomes(branch_id)[-1]

    def reason(self, branch_id: int = 1) -> str:
        """Why the latest attempt failed."""
        end = self.events(branch_id)[-1]
        assert isinstance(end, MirrorFailed), end
        return end.reason

    def states(self) -> dict[int, BranchState]:
        """What the puller has noted."""
        with State(self.into / ".puller" / "state.db", reads_only=True) as state:
            return state.branches()

    def save_states(self, changed: dict[int, BranchState]) -> None:
        with State(self.into / ".puller" / "state.db") as state:
            state.save(changed.items())

    def note(self, branch_id: int = 1, **changed: Any) -> None:
        """Changes what is noted of a branch."""
        state = self.states()[branch_id]
        for name, value in changed.items():
            setattr(state, name, value)
        self.save_states({branch_id: state})

    def reasons(self, branch_id: int = 1) -> list[str]:
        """Why attempts failed; empty if none did."""
        return [each.reason for each in self.events(branch_id) if isinstance(each, MirrorFailed)]

    def wait_for_outcomes(self, count: int, branch_id: int = 1) -> None:
        def are_there() -> bool:
            found = self.outcomes(branch_id)
            return len(found) >= count and found[-1] != "open"

        wait_until(are_there, PATIENCE_SECONDS, f"{count} attempts of branch {branch_id}")

    def programs(self) -> list[int]:
        """What attempts have started and is alive."""
        return marked(str(self.into))


def marked(folder: str) -> list[int]:
    """Processes whose environment names that folder of mirrors in the mark of an attempt, and that
    have not ended."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                words = (process / "environ").read_bytes().split(b"\0")
                is_marked = any(
                    word.startswith(b"MIRRORFEED_PULLER_ATTEMPT=")
                    and word.endswith(b":" + folder.encode())
                    for word in words
                )
                if is_marked:
                    found.append(int(process.name))
    return found


def kill(process: "subprocess.Popen[str]") -> None:
    """As the kernel would, at once."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def children_of(process_id: int) -> list[tuple[int, str]]:
    """Each child's number and state."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                after = (process / "stat").read_text().rpartition(")")[2].split()
                if int(after[1]) == process_id:
                    found.append((int(process.name), after[0]))
    return found
