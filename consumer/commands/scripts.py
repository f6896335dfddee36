"""`mirror-consumer scripts` and `check-scripts`: the script monitor."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, NoReturn

import typer

from mirrorfeed.consumer.branches.scripts import Sighting, Watched, check, last_runs
from mirrorfeed.consumer.commands.nagios import (
    Level,
    MonitorCommand,
    NagiosOption,
    answer,
    unknown_if_it_fails,
)
from mirrorfeed.consumer.commands.options import (
    DatabaseUrlOption,
    JsonOption,
)
from mirrorfeed.consumer.commands.output import (
    TIME,
    clock,
    exact_span,
    plural,
    print_table,
    span,
)
from mirrorfeed.consumer.commands.program import reading
from mirrorfeed.consumer.database import as_json
from mirrorfeed.consumer.errors import ConditionNotMet, UsageError
from mirrorfeed.contract import environment, exit_codes
from mirrorfeed.contract.durations import MAX_SECONDS
from mirrorfeed.contract.printing import print_json, printable

MAX_MINUTES = MAX_SECONDS / 60

app = typer.Typer(rich_markup_mode=None)


@app.command()
def scripts(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A script's name. [default: all]")
    ] = None,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show the last activity of each script on each host: the run that started last.

    \b
    Example:
      mirror-consumer scripts branch-puller
    """
    with reading(database_url) as connection:
        runs = last_runs(connection, name)
    if as_json_document:
        print_json({"scripts": [as_json(run) for run in runs]})
    else:
        print_table(
            ("name", "host", "started (UTC)", "completed (UTC)", "took", "age"),
            [run_cells(run) for run in runs],
            empty="no script has run yet",
        )
    if name is not None and not runs:
        raise ConditionNotMet(
            f"no run of a script {name!r} is known: mirror-consumer scripts lists all scripts"
        )


@app.command(cls=MonitorCommand)
def check_scripts(
    minutes: Annotated[float, typer.Argument(metavar="MINUTES", help="How recent a run must be.")],
    watched: Annotated[
        list[str],
        typer.Argument(metavar="HOST:SCRIPT…", help="Which script should run on which host."),
    ],
    is_nagios: NagiosOption = False,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Say nothing and exit 0 if each script ran on its host in the last MINUTES, else exit 1.

    A run counts if it completed within that time, both ends included. Each script that did not run
    gets a line that says when it was last seen. Runs are dated by their hosts' clocks; now is by
    the database's clock.

    \b
    Examples:
      mirror-consumer check-scripts 60 vostok:branch-puller mir:nightly-gc
      mirror-consumer check-scripts --nagios 60 vostok:branch-puller
    """
    with unknown_if_it_fails(is_nagios, as_json_document):
        if not 0 < minutes <= MAX_MINUTES:
            raise UsageError(
                f"MINUTES must be above 0 and at most {MAX_MINUTES:.0f}, got {minutes:g}"
            )
        wanted = list(dict.fromkeys(map(Watched.parse, watched)))
        with reading(database_url) as connection:
            sightings = check(connection, wanted, timedelta(minutes=minutes))
    missing = [sighting for sighting in sightings if not sighting.has_run]
    if is_nagios:
        report_to_nagios(sightings, missing, minutes)
    if as_json_document:
        print_json({"minutes": minutes, "scripts": [sighting_document(each) for each in sightings]})
    else:
        for sighting in missing:
            print(printable(last_seen_line(sighting)))
    if missing:
        raise typer.Exit(exit_codes.NOT_MET)


def run_cells(run: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        run["name"],
        run["hostname"],
        clock(run["date_started"]),
        clock(run["date_completed"]),
        exact_span(run["duration_seconds"]),
        f"{span(run['age_seconds'])} ago",
    )


def last_seen_line(sighting: Sighting) -> str:
    if sighting.last_seen is None or sighting.age_seconds is None:
        return f"{sighting.script} never seen"
    when = f"{sighting.last_seen:{TIME}} UTC ({span(sighting.age_seconds)} ago)"
    return f"{sighting.script} last seen {when}"


def sighting_document(sighting: Sighting) -> dict[str, Any]:
    return as_json(
        {
            "hostname": sighting.script.hostname,
            "name": sighting.script.name,
            "has_run": sighting.has_run,
            "last_seen": sighting.last_seen,
            "age_seconds": sighting.age_seconds,
        }
    )


def report_to_nagios(
    sightings: Sequence[Sighting], missing: Sequence[Sighting], minutes: float
) -> NoReturn:
    total = plural(len(sightings), "script")
    span_of_time = f"in the last {minutes:.15g} minute{'' if minutes == 1 else 's'}"
    if not missing:
        answer(Level.OK, f"{total} ran {span_of_time}")
    details = "; ".join(map(last_seen_line, missing))
    said = f"{len(missing):,} of {total} did not run {span_of_time}: {details}"
    answer(Level.CRITICAL, said)
