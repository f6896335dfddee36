"""What a person sees while the puller works: a line for each branch that is being mirrored, and a
bar for the pass. On standard error; for a terminal only."""

import logging
import threading
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from mirrorfeed.contract.printing import STANDARD_ERROR, printable, styled_output
from mirrorfeed.puller.attempt import Outcome
from mirrorfeed.puller.branch_list import Branch

MAX_PROGRESS = 60
REFRESHES_PER_SECOND = 4


class Lines(logging.Handler):
    """The lines. As a handler of logs it writes warnings above them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._console = Console(file=styled_output(STANDARD_ERROR), stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            console=self._console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
        )
        self._pass: TaskID | None = None
        self._tasks: dict[int, TaskID] = {}
        self._guard = threading.Lock()

    def __enter__(self) -> Self:
        logging.basicConfig(level=logging.INFO, handlers=[self])
        logging.getLogger("pika").setLevel(logging.CRITICAL)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        logging.getLogger().removeHandler(self)

    def pass_begins(self, due: int) -> None:
        """So many branches will be mirrored, and then it is over."""
        self._pass = self._progress.add_task("all that is due", total=due, said="")

    def began(self, branch: Branch) -> Callable[[bytes], None]:
        """An attempt has begun; gives what to call with git's progress."""
        task = self._progress.add_task(printable(f"{branch.id} {branch.name}"), total=None, said="")
        with self._guard:
            self._tasks[branch.id] = task

        def progress(chunk: bytes) -> None:
            lines = chunk.replace(b"\r", b"\n").strip().rpartition(b"\n")[2]
            said = printable(lines[-MAX_PROGRESS:].decode(errors="replace"))
            self._progress.update(task, said=said)

        return progress

    def ended(self, branch: Branch, outcome: Outcome) -> None:
        with self._guard:
            task = self._tasks.pop(branch.id)
        self._progress.remove_task(task)
        if self._pass is not None:
            self._progress.advance(self._pass)
        del outcome  # a failure is logged, and so written above the lines

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a warning."""
        fields = {
            name: getattr(record, name)
            for name in ("branch", "branch_name", "host", "because", "seconds")
            if hasattr(record, name)
        }
        words = [record.getMessage(), *(f"{name}={value}" for name, value in fields.items())]
        self._console.print(Text(printable(" ".join(words))), soft_wrap=True)
