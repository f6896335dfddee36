"""A puller that has always something to do: `python -m tests.restless_puller INTO UPSTREAM...`.

For each line that it reads, it forks a process, prints its number, and mirrors in it, until it is
killed, one upstream after another into the same mirror. Then it prints `killed`.
"""

import itertools
import os
import sys
from pathlib import Path

from mirrorfeed.publisher.client import BranchStatusClient
from mirrorfeed.puller.attempt import Attempts
from mirrorfeed.puller.branch_list import Branch
from mirrorfeed.puller.folder import Folder
from mirrorfeed.puller.process import Processes
from mirrorfeed.puller.reports import Reports
from mirrorfeed.puller.settings import Settings
from mirrorfeed.puller.state import BranchState


def main(into: Path, upstreams: list[Path]) -> None:
    settings = Settings(protocols=("file",), keep_free_bytes=0)
    reports = Reports(no_client, lambda _: None, "nowhere")
    link = into.with_name("moving")
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            attempts = Attempts(Folder(into), settings, reports, Processes())
            branch = Branch(1, "b", link.as_uri())
            for upstream in itertools.cycle(upstreams):
                new = link.with_suffix(".new")
                new.unlink(missing_ok=True)
                new.symlink_to(upstream)
                new.rename(link)
                outcome = attempts.attempt(branch, BranchState())
                if outcome.failure:
                    os.write(sys.stderr.fileno(), outcome.failure.reason.encode())
                    os._exit(1)
        say(f"{child}")
        _, status = os.waitpid(child, 0)
        say("killed" if os.WIFSIGNALED(status) else "failed")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def no_client() -> BranchStatusClient:
    raise OSError("nobody is told")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]])
