"""What `make play` shows: pullers that go on mirroring, and the page that watches them."""

import csv
import itertools
import random
import socket
import threading

from rich.console import Console
from rich.text import Text

from demo.stage import Stage
from demo.story import chapter, commit

WATCHERS_PORT = 8070
PAUSE_SECONDS = 1.0
"""Between two mirrors, so that one can watch."""
DRAWINGS = (
    *("clock", "kettle", "lamp", "compass", "harbour", "orchard", "quilt", "sparrow", "lantern"),
    *("anchor", "barrel", "candle", "drum", "easel", "fiddle", "globe"),
)
REWRITTEN, GONE, UNREGISTERED = "kettle", "lamp", "globe"
"""What upstream does to some: rewrite the history, vanish now and then, and never be registered."""
ROUNDS_OF_ABSENCE = 4


def keep_playing(console: Console, stage: Stage) -> None:
    """Mirrors a few repositories again and again, until a signal ends the demo."""
    chapter(console, "Set up: tables, queues, branches, the services, and the page")
    for name in DRAWINGS:
        stage.output("git", "-c", "init.defaultBranch=main", "init", f"upstream/{name}")
        commit(stage, name, f"Draw the {name}")
    with (stage.path / "branches.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "unique_name", "url"])
        rows.writerows(
            [number, f"~ada/{name}/main", f"upstream/{name}"]
            for number, name in enumerate(DRAWINGS, start=1)
            if name != UNREGISTERED
        )
    stage.show("mirror-consumer", "init")
    stage.show("mirror-consumer", "branches", "import", "branches.csv")
    stage.start("mirror-consumer", "run")
    stage.start("mirror-publisher", "forward")
    port = free_port()
    stage.start("mirror-consumer", "web", "--operate", "--port", str(port))
    console.print(
        Text(f"\nThe page is at http://127.0.0.1:{port}/, and pullers go on mirroring. ", "bold")
        + Text("Ctrl-C ends it, and leaves nothing.")
    )
    pacing, chance = threading.Event(), random.Random(1)  # noqa: S311  no secret
    for turn in itertools.count():
        stage.check_services()
        round_number, place = divmod(turn, len(DRAWINGS))
        mirror(stage, place + 1, round_number, chance)
        if place == 0:
            stage.attempt("mirror-publisher", "run-script", "nightly-gc", "--", "true")
        pacing.wait(PAUSE_SECONDS)


def mirror(stage: Stage, number: int, round_number: int, chance: random.Random) -> None:
    """One puller's turn with one branch; now and then there is something new upstream."""
    name = DRAWINGS[number - 1]
    is_gone = name == GONE and round_number % ROUNDS_OF_ABSENCE == 1
    if name == REWRITTEN:
        commit(stage, name, f"Draw the {name} anew, {round_number}", "--amend")
    elif chance.random() < 0.3:
        commit(stage, name, f"Improve the {name}, {round_number}")
    mirrored = stage.path / "mirrors" / name
    source = "upstream/nowhere" if is_gone else f"upstream/{name}"
    branches = "+main:main" if name == REWRITTEN and round_number % 5 == 4 else "main:main"
    stage.attempt(
        *("mirror-publisher", "run", "--branch", str(number)),
        *("--revision-command", f"git -C mirrors/{name} rev-parse main", "--"),
        *(
            ("git", "-C", f"mirrors/{name}", "fetch", f"../../{source}", branches)
            if mirrored.exists()
            else ("git", "clone", "--bare", source, f"mirrors/{name}")
        ),
    )


def free_port() -> int:
    """The page's usual port, or if something else has it, any other."""
    for port in (WATCHERS_PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as sock:
                number: int = sock.getsockname()[1]
                return number
        except OSError:
            continue
    raise OSError("no port of 127.0.0.1 is free")
