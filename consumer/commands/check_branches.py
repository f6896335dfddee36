"""`mirror-consumer check-branches`: are the branches as they should be?"""

from typing import Annotated, NoReturn

import typer
from msgspec import Struct

from mirrorfeed.consumer.branches.status import BranchState, count_stale, count_states
from mirrorfeed.consumer.commands.nagios import (
    Level,
    MonitorCommand,
    NagiosOption,
    answer,
    unknown_if_it_fails,
)
from mirrorfeed.consumer.commands.options import DatabaseUrlOption, JsonOption
from mirrorfeed.consumer.commands.program import reading
from mirrorfeed.contract import environment, exit_codes
from mirrorfeed.contract.durations import duration
from mirrorfeed.contract.printing import print_json, printable

app = typer.Typer(rich_markup_mode=None)


class Count(Struct, frozen=True):
    """How many branches are so, and how many may be."""

    what: str
    branches: int
    allowed: int

    @property
    def is_well(self) -> bool:
        return self.branches <= self.allowed

    def __str__(self) -> str:
        return f"{self.branches:,} {self.what}"


@app.command(cls=MonitorCommand)
def check_branches(
    stuck: Annotated[
        int, typer.Option(min=0, metavar="N", help="How many branches may be stuck.")
    ] = 0,
    failing: Annotated[
        int, typer.Option(min=0, metavar="N", help="How many branches may be failing.")
    ] = 0,
    stale: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="No branch may be without a success that began since then, such as 6h or 2d.",
        ),
    ] = None,
    is_nagios: NagiosOption = False,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Say nothing and exit 0 if the branches are as they should be, else say what is not so, and
    exit 1.

    `mirror-consumer status` shows which branches these are. With --nagios, branches that are not as
    they should be are CRITICAL.

    \b
    Examples:
      mirror-consumer check-branches --failing 10 --stale 1d
      mirror-consumer check-branches --nagios
    """
    with unknown_if_it_fails(is_nagios, as_json_document):
        oldest = None if stale is None else duration(stale)
        with reading(database_url) as connection:
            states = count_states(connection)
            older = [] if oldest is None else count_stale(connection, [oldest])
    total = sum(states.values())
    counts = [
        Count("stuck", states[BranchState.STUCK], stuck),
        Count("failing", states[BranchState.FAILING], failing),
    ]
    counts += [Count(f"without a success for {stale}", number, 0) for number in older]
    if is_nagios:
        report_to_nagios(counts, total)
    wrong = [each for each in counts if not each.is_well]
    if as_json_document:
        document = {name: each.branches for name, each in named(counts).items()}
        print_json({"branches": total, **document, "is_well": not wrong})
    else:
        for each in wrong:
            of = f"{each.branches:,} of {total:,} branches"
            print(printable(f"{of} {each.what} (allowed: {each.allowed:,})"))
    if wrong:
        raise typer.Exit(exit_codes.NOT_MET)


def named(counts: list[Count]) -> dict[str, Count]:
    return dict(zip(("stuck", "failing", "stale"), counts, strict=False))


def report_to_nagios(counts: list[Count], total: int) -> NoReturn:
    performance = {
        name: f"{each.branches};;{each.allowed};0;{total}" for name, each in named(counts).items()
    }
    wrong = [each for each in counts if not each.is_well]
    said = ", ".join(map(str, wrong)) or "as they should be"
    level = Level.CRITICAL if wrong else Level.OK
    answer(level, f"of {total:,} branches: {said}", performance)
