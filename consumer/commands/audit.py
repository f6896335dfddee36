"""`mirror-consumer audit`, and what operators settle by it: is anything missing?"""

from typing import Annotated

import typer
from msgspec import structs

from mirrorfeed.consumer.commands.options import (
    DatabaseUrlOption,
    JsonOption,
    NoteOption,
    SourceArgument,
    checked_note,
)
from mirrorfeed.consumer.commands.output import plural, print_table, span
from mirrorfeed.consumer.commands.program import (
    reading,
    refuse_options_before_subcommand,
    transaction,
)
from mirrorfeed.consumer.database import as_json
from mirrorfeed.consumer.errors import ConditionNotMet
from mirrorfeed.consumer.sources import decisions as settled
from mirrorfeed.consumer.sources.audit import LISTED_RANGES, Audit
from mirrorfeed.consumer.sources.audit import audit as audit_ledger
from mirrorfeed.contract import environment
from mirrorfeed.contract.durations import MAX_SECONDS
from mirrorfeed.contract.printing import print_json

app = typer.Typer(rich_markup_mode=None)
audit_app = typer.Typer(rich_markup_mode=None)
app.add_typer(audit_app, name="audit")


@audit_app.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
    grace_seconds: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            min=0,
            max=MAX_SECONDS,
            help="Ignore events missing for less than this: they may still be on their way.",
        ),
    ] = 0.0,
    limit: Annotated[
        int,
        typer.Option(
            min=0, help="List at most this many missing ranges, some of each source; count all."
        ),
    ] = LISTED_RANGES,
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show which numbered events of each source have not arrived, and how many messages were
    neither applied nor kept; exit 1 if there are any.

    A number is reused if it came again with another event: two spools speak as one source, such as
    that of a copied host. Exits 1 then, too.

    If nothing is missing, and `highest` equals `spooled` in `mirror-publisher status` on that host,
    then everything the host ever reported has arrived.

    \b
    Examples:
      mirror-consumer audit --grace 60
      mirror-consumer audit accept SOURCE 17 20 --note "the disk was lost"
    """
    if context.invoked_subcommand is not None:
        refuse_options_before_subcommand(context)
        return
    with reading(database_url) as connection:
        found = audit_ledger(connection, grace_seconds=grace_seconds, limit=limit)
    if as_json_document:
        print_json(_as_document(found))
    else:
        _show(found)
    wrong = [f"{plural(found.missing_events, 'event')} missing"] if found.missing_events else []
    if found.reused_events:
        wrong.append(f"{plural(found.reused_events, 'number')} reused")
    if found.overflow:
        wrong.append(
            f"{plural(found.overflow, 'message')} neither applied nor kept:"
            " mirror-replay list --overflow"
        )
    if wrong:
        raise ConditionNotMet(", ".join(wrong))


def _as_document(found: Audit) -> dict[str, object]:
    return {
        "sources": [
            {
                "source": account.source,
                "highest": account.highest,
                "received": account.received,
                "missing": [(each.first, each.last) for each in account.missing],
                "missing_seconds": [round(each.missing_seconds, 3) for each in account.missing],
                "missing_ranges": account.missing_ranges,
                "missing_events": account.missing_events,
                "accepted": account.accepted,
                "reused": account.reused,
                "reused_events": account.reused_events,
                "dead": account.dead,
                "overflow": account.overflow,
            }
            for account in found.accounts
        ],
        "missing_total": found.missing_events,
        "reused_total": found.reused_events,
        "overflow_total": found.overflow,
    }


def _show(found: Audit) -> None:
    print_table(
        ("source", "highest", "received", "missing", "accepted", "reused", "dead", "overflow"),
        [
            (
                each.source,
                each.highest,
                each.received,
                each.missing_events,
                each.accepted,
                each.reused_events,
                each.dead,
                each.overflow,
            )
            for each in found.accounts
        ],
        empty="no source has sent a numbered event yet",
    )
    print_table(
        ("missing from", "first", "last", "for"),
        [
            (account.source, each.first, each.last, span(each.missing_seconds))
            for account in found.accounts
            for each in account.missing
        ],
        empty="nothing is missing" if found.accounts and not found.missing_events else None,
    )
    print_table(
        ("reused in", "first", "last"),
        [
            (account.source, first, last)
            for account in found.accounts
            for first, last in account.reused
        ],
    )
    unlisted = sum(each.missing_ranges - len(each.missing) for each in found.accounts)
    if unlisted:
        print(f"and {plural(unlisted, 'missing range')} more: see --limit")


@audit_app.command()
def accept(
    source: SourceArgument,
    first: Annotated[int, typer.Argument(metavar="FROM", help="The first number.")],
    last: Annotated[int, typer.Argument(metavar="TO", help="The last number.")],
    note: NoteOption,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Accept that numbers of a source will never arrive, or were reused: they no longer count.

    One that arrives after all counts as received. `audit undo` takes the decision back.

    \b
    Example:
      mirror-consumer audit accept /pullers/vostok/UUID 17 20 \\
        --note "the broker's disk was lost"
    """
    with transaction(database_url) as connection:
        done = settled.accept(connection, source, first, last, checked_note(note))
    print(
        f"{plural(done.events, 'event')} accepted as lost; to take that back:"
        f" mirror-consumer audit undo {done.decision_id} --note TEXT"
    )


@audit_app.command()
def decisions(
    as_json_document: JsonOption = False,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Show what operators have settled: who, when and why.

    \b
    Example:
      mirror-consumer audit decisions
    """
    with reading(database_url) as connection:
        found = settled.decisions(connection)
    if as_json_document:
        print_json({"decisions": [as_json(structs.asdict(each)) for each in found]})
        return
    print_table(
        ("id", "decided at", "by", "what", "source", "first", "last", "undone by", "note"),
        [
            (
                each.id,
                each.decided_at,
                each.decided_by,
                each.kind if each.undoes is None else f"{each.kind} {each.undoes}",
                each.source,
                each.first,
                each.last,
                each.undone_by,
                each.note,
            )
            for each in found
        ],
        empty="no operator has settled anything",
    )


@audit_app.command()
def undo(
    decision_id: Annotated[
        int, typer.Argument(metavar="ID", help="The decision's number, as `decisions` shows it.")
    ],
    note: NoteOption,
    database_url: DatabaseUrlOption = environment.DEFAULT_DATABASE_URL,
) -> None:
    """Take back a decision: what was accepted counts as missing, what was forgotten as arrived.

    \b
    Example:
      mirror-consumer audit undo 3 --note "the host had only been away"
    """
    with transaction(database_url) as connection:
        undone = settled.undo(connection, decision_id, checked_note(note))
    print(f"decision {decision_id} ({undone.kind} {undone.first} to {undone.last}) is undone")
