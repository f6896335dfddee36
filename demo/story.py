"""What the demo shows: two rounds of mirroring, as the database sees them."""

import csv
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text
from sqlalchemy.orm import Session

from demo.errors import DemoError
from demo.stage import Stage
from mirrorfeed.consumer import get_last_activity
from mirrorfeed.consumer.database import open_engine
from sandbox import wait_until

BRANCHES = {"clock": 1, "kettle": 2, "lamp": 3}
SCRIPT = "nightly-gc"
APPLIED_SECONDS = 30
SOME_FAILED = 1
"""The puller's exit code if not all branches of the list could be mirrored."""


@dataclass(frozen=True)
class State:
    """What a branch's row should say."""

    state: str
    last_mirrored_id: str | None
    mirror_failures: int


def tell(console: Console, stage: Stage, database_url: str) -> None:
    """Plays both rounds. Raises DemoError if anything is not as it should be."""
    chapter(console, "Set up: tables, queues, three branches, and a service on each side")
    for name in ("clock", "kettle", "lantern"):
        stage.output("git", "-c", "init.defaultBranch=main", "init", f"upstream/{name}")
        commit(stage, name, f"Draw the {name}")
    console.print("upstream/ has git repositories of a clock, a kettle and a lantern")
    with (stage.path / "branches.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "unique_name", "url"])
        for name, number in BRANCHES.items():
            url = (stage.path / "upstream" / name).as_uri()
            rows.writerow([number, f"~ada/{name}/main", url])
    stage.show("mirror-consumer", "init")
    stage.show("mirror-consumer", "branches", "import", "branches.csv")
    stage.start("mirror-consumer", "run")
    stage.start("mirror-publisher", "forward")

    chapter(console, "Round 1: the first mirrors; there is no upstream/lamp yet")
    mirror(stage)
    wait_for_states(
        console,
        stage,
        clock=State("mirrored", revision(stage, "clock"), 0),
        kettle=State("mirrored", kettle := revision(stage, "kettle"), 0),
        lamp=State("failing", None, 1),
    )
    stage.show("mirror-consumer", "status")

    chapter(console, "Round 2: clock's history is rewritten, kettle vanishes, lamp appears")
    commit(stage, "clock", "Draw the clock again", "--amend")
    (stage.path / "upstream" / "kettle").rename(stage.path / "upstream" / "teapot")
    (stage.path / "upstream" / "lantern").rename(stage.path / "upstream" / "lamp")
    mirror(stage, "--all")
    tidy_up = ("git", "-C", mirror_of("clock"), "gc", "--quiet")
    stage.show("mirror-publisher", "run-script", SCRIPT, "--", *tidy_up)
    wait_for_states(
        console,
        stage,
        clock=State("mirrored", revision(stage, "clock"), 0),
        kettle=State("failing", kettle, 1),
        lamp=State("mirrored", revision(stage, "lamp"), 0),
    )
    stage.show("mirror-consumer", "status")
    console.print("A failing branch keeps what was mirrored last, and says why it fails.")

    chapter(console, "Accounts: everything that was spooled is confirmed and applied")
    stage.show("mirror-publisher", "status")
    account = stage.document("mirror-publisher", "status")
    if account["spooled"] != account["confirmed"]:
        raise DemoError(f"not everything that was spooled is confirmed: {account}")
    console.print(last_activity(database_url))

    codes = stage.stop()
    if any(codes.values()):
        raise DemoError(f"a service did not exit with 0 on SIGTERM: {codes}")
    console.print("Both services exited with 0 on SIGTERM.")


def chapter(console: Console, title: str) -> None:
    console.print(Text(f"\n{title}", "bold"))


def commit(stage: Stage, name: str, message: str, *options: str) -> None:
    """Commits a new version of the drawing upstream."""
    repository = f"upstream/{name}"
    (stage.path / repository / f"{name}.txt").write_text(f"{message}\n")
    stage.output("git", "-C", repository, "add", "--all")
    stage.output("git", "-C", repository, "commit", "--message", message, *options)


def mirror(stage: Stage, *options: str) -> None:
    """Mirrors what is due, and reports on it. One of the branches always fails."""
    stage.show(
        *("mirror-puller", "run", "branches.csv", "--into", "mirrors", "--once", *options),
        *("--allow-protocol", "file"),
        expect=SOME_FAILED,
    )


def mirror_of(name: str) -> str:
    return f"mirrors/{BRANCHES[name]}.git"


def revision(stage: Stage, name: str) -> str:
    return stage.output("git", "-C", mirror_of(name), "rev-parse", "main")


def wait_for_states(console: Console, stage: Stage, **expected: State) -> None:
    """Waits until nothing is pending and the database says what it should. Raises DemoError."""
    seen: dict[str, State] = {}

    def is_so() -> bool:
        stage.check_services()
        if stage.document("mirror-publisher", "status")["pending"]:
            return False
        for row in stage.document("mirror-consumer", "status")["branches"]:
            _, name, _ = row["unique_name"].split("/")
            seen[name] = State(row["state"], row["last_mirrored_id"], row["mirror_failures"])
        return seen == expected

    try:
        with console.status("waiting until all events are confirmed and applied"):
            wait_until(is_so, APPLIED_SECONDS, "the events to be applied")
    except TimeoutError as error:
        raise DemoError(f"{error}: expected {expected}, the database says {seen}") from error
    console.print("All events are confirmed and applied.")


def last_activity(database_url: str) -> str:
    """When the script last ran, as a monitor would ask. Raises DemoError."""
    engine = open_engine(database_url)
    try:
        with Session(engine) as session:
            activity = get_last_activity(session, SCRIPT)
    finally:
        engine.dispose()
    if activity is None:
        raise DemoError(f"the database does not know that {SCRIPT} ran")
    return f"{SCRIPT} ran on {activity.hostname}, until {activity.date_completed:%H:%M:%S} UTC."
