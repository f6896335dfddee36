"""What `mirror-puller` costs beside git alone, on a list of 500 small repositories."""

import csv
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

from benchmarks.grokmirror import Grokmirror, is_installed
from benchmarks.harness import Row, Rows, Values, at_most, beside, measure
from benchmarks.stand import Stand, high_water_mark, wait_for_log
from tests.many_upstreams import EACH, KINDS, MAX_MIRROR_BYTES, many_upstreams
from tests.upstreams import GIT_ENVIRONMENT

COUNT = 500
AT_ONCE = 8
LINES = 10_000
SETTINGS = ("--allow-protocol", "http", "--per-host", str(AT_ONCE), "--keep-free-bytes", "0")
LS = f"xargs -P{AT_ONCE} git ls-remote"
CLONE = f"xargs -P{AT_ONCE} git clone --bare"
AS_IT_WAS, FIRST = "mirror-puller, nothing changed", "mirror-puller, first clones"
GROKMIRROR = "grok-pull"
CPU = ", processor time"


@measure("pulling", rounds=7, takes_minutes=True)
def pulling(stand: Stand) -> Rows:
    """Passes of the puller, compared with as many processes of git at once over the same list."""
    folder = stand.folder / "pulling"
    folder.mkdir()
    with many_upstreams(folder, COUNT) as upstreams:
        check_table(stand, folder, upstreams.urls, upstreams.expected)
        good = {each: url for each, url in upstreams.urls.items() if each not in upstreams.expected}
        template = upstreams.web.root / "template.git"
        for branch_id in upstreams.expected:
            shutil.copytree(template, upstreams.web.root / f"r{branch_id}.git")
            good[branch_id] = f"{upstreams.web.url}/git/r{branch_id}.git"
        runs = Runs(stand, folder, good)
        clone, clone_cpu = Row(CLONE, "s", runs.first), Row(CLONE + CPU, "s", runs.first)
        ls, ls_cpu = Row(LS, "s", runs.again), Row(LS + CPU, "s", runs.again)
        first = [
            clone,
            Row(FIRST, "s", runs.first, at_most(1.15, clone)),
            clone_cpu,
            Row(FIRST + CPU, "s", runs.first, beside(clone_cpu)),
        ]
        again = [
            ls,
            Row(AS_IT_WAS, "s", runs.again, at_most(1.2, ls)),
            ls_cpu,
            Row(AS_IT_WAS + CPU, "s", runs.again, at_most(1.5, ls_cpu)),
        ]
        if is_installed():
            root = upstreams.web.root
            for path in root.glob("large*.git"):
                shutil.rmtree(path)
            # Of the rest the template is one too many: a pass of 500 would never end, as
            # grokmirror 2.0.12 waits for a result after each full hundred.
            rival = Grokmirror(folder, f"{upstreams.web.url}/git", root, AT_ONCE)
            rivals = RivalRuns(stand, rival)
            for rows, run in ((first, rivals.first), (again, rivals.again)):
                rows += [
                    Row(GROKMIRROR + what, "s", run, beside(ours))
                    for what, ours in (("", rows[1]), (CPU, rows[3]))
                ]
        yield {
            f"first mirrors of {COUNT} repositories": first,
            f"{COUNT} repositories as they were": again,
            f"a list of {LINES:,} lines": [
                Row("until it is read", "s", runs.start, at_most(1)),
                Row("peak memory by then", "MB", runs.start, at_most(100)),
            ],
        }


def check_table(stand: Stand, folder: Path, urls: dict[int, str], expected: dict[int, str]) -> None:
    """All of the list is mirrored that can be, and the branch table says what became of the rest.

    Raises RuntimeError if not.
    """
    stand.ask("TRUNCATE branch CASCADE")
    branches = write_list(folder / "branches.csv", urls)
    stand.run("mirror-consumer", "branches", "import", str(branches))
    spool = ("--spool", str(folder / "spool.db"))
    into = ("--into", str(folder / "mirrors"))
    limits = ("--stall-timeout", "5s", "--max-mirror-bytes", str(MAX_MIRROR_BYTES))
    run = ("mirror-puller", "run", str(branches), *into, "--once", *SETTINGS, *limits, *spool)
    timed(stand, run, expect=1)
    stand.run("mirror-publisher", "forward", "--drain", *spool)
    stand.run("mirror-consumer", "run", "--drain")
    rows = json.loads(stand.run("mirror-consumer", "status", "--json").stdout)["branches"]
    found = {
        row["id"]: row["mirror_status_message"].partition(":")[0]
        for row in rows
        if row["mirror_failures"]
    }
    mirrored = sum(row["last_mirrored_id"] is not None for row in rows)
    if found != expected or mirrored != COUNT - KINDS * EACH:
        raise RuntimeError(f"{mirrored} of {COUNT} are mirrored, and failed are {found}")
    shutil.rmtree(folder / "mirrors")


class Runs:
    """What is compared, each in an empty folder or on mirrors that are as upstream is."""

    def __init__(self, stand: Stand, folder: Path, urls: dict[int, str]) -> None:
        self._stand = stand
        self._folder = folder
        self._list = write_list(folder / "good.csv", urls)
        self._urls = "\n".join(urls.values()) + "\n"
        self._spool = ("--spool", str(folder / "speed.db"))
        self._mirrors = folder / "speed"
        many = {each: f"https://h{each % 99}.invalid/{each}" for each in range(1, LINES + 1)}
        self._many = write_list(folder / "many.csv", many)

    def first(self) -> Values:
        alone = self._folder / "alone"
        alone.mkdir()
        command = ("xargs", f"-P{AT_ONCE}", "-n1", "git", "clone", "-q", "--bare")
        git_seconds, git_cpu = timed(self._stand, command, folder=alone, typed=self._urls)
        shutil.rmtree(alone)
        shutil.rmtree(self._mirrors, ignore_errors=True)
        seconds, cpu = timed(self._stand, self._pass())
        return {CLONE: git_seconds, CLONE + CPU: git_cpu, FIRST: seconds, FIRST + CPU: cpu}

    def again(self) -> Values:
        command = ("xargs", f"-P{AT_ONCE}", "-n1", "git", "ls-remote")
        git_seconds, git_cpu = timed(self._stand, command, typed=self._urls)
        seconds, cpu = timed(self._stand, self._pass())
        return {LS: git_seconds, LS + CPU: git_cpu, AS_IT_WAS: seconds, AS_IT_WAS + CPU: cpu}

    def start(self) -> Values:
        into = self._folder / "lines"
        command = ("mirror-puller", "run", str(self._many), "--into", str(into), *self._spool)
        began = time.perf_counter()
        with self._stand.running(*command, "--no-forward", "--stop-timeout", "0s") as process:
            wait_for_log(process, "the list is read")
            seconds, peak = time.perf_counter() - began, high_water_mark(process.pid)
        shutil.rmtree(into)
        return {"until it is read": seconds, "peak memory by then": peak}

    def _pass(self) -> tuple[str, ...]:
        into = ("--into", str(self._mirrors), "--once", "--all")
        return ("mirror-puller", "run", str(self._list), *into, *SETTINGS, *self._spool)


class RivalRuns:
    """The same two passes of grokmirror."""

    def __init__(self, stand: Stand, rival: Grokmirror) -> None:
        self._stand = stand
        self._rival = rival

    def first(self) -> Values:
        self._rival.forget()
        return self._pass()

    def again(self) -> Values:
        return self._pass()

    def _pass(self) -> Values:
        seconds, cpu = timed(self._stand, self._rival.one_pass)
        self._rival.check(COUNT + 1)
        return {GROKMIRROR: seconds, GROKMIRROR + CPU: cpu}


def write_list(path: Path, urls: dict[int, str]) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "unique_name", "url"])
        rows.writerows([each, f"~ada/b{each}", url] for each, url in urls.items())
    return path


def timed(
    stand: Stand,
    command: Sequence[str],
    *,
    folder: Path | None = None,
    typed: str | None = None,
    expect: int = 0,
) -> tuple[float, float]:
    """Seconds, and processor seconds of the command and all that it has waited for. The servers
    are threads of this process, and their children: their time does not count."""
    arguments = stand.arguments(tuple(command)) if command[0].startswith("mirror-") else command
    # What was removed before would be written to the disk meanwhile.
    os.sync()
    with ExitStack() as opened:
        quiet = opened.enter_context(Path(os.devnull).open("w"))
        said = opened.enter_context(TemporaryFile("w+"))
        began = time.perf_counter()
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env={**stand.environment(), **GIT_ENVIRONMENT},
            stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
            stdout=quiet,
            stderr=said,
            text=True,
        )
        if process.stdin is not None:
            process.stdin.write(typed or "")
            process.stdin.close()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if process.returncode != expect:
            raise RuntimeError(f"{command} exited with {process.returncode}: {said.read()[-500:]}")
    return seconds, used.ru_utime + used.ru_stime
