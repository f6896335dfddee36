"""Now: how everything is, in one sentence, and then what needs attention."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec import to_builtins
from sqlalchemy import Connection
from starlette.requests import Request

from mirrorfeed.consumer.branches.activity import Minute, attempts_by_minute
from mirrorfeed.consumer.branches.listing import Filter
from mirrorfeed.consumer.branches.scripts import Rhythm, rhythms
from mirrorfeed.consumer.branches.status import BranchState
from mirrorfeed.consumer.database import database_now
from mirrorfeed.consumer.dead_letters.store import Selection
from mirrorfeed.consumer.operations.store import Operation, under_way
from mirrorfeed.consumer.web.charts import Bar, chart
from mirrorfeed.consumer.web.context import Context, Page
from mirrorfeed.consumer.web.pages.branches import counts, listed
from mirrorfeed.consumer.web.pages.ledger import Ledger, ledger
from mirrorfeed.consumer.web.pages.letters import grouped
from mirrorfeed.consumer.web.pages.operations import shown_as
from mirrorfeed.consumer.web.partitions import partitions, workers
from mirrorfeed.consumer.web.verdict import Facts, remarks
from mirrorfeed.consumer.web.watch import View
from mirrorfeed.consumer.words import exact_span, span

SHOWN_BRANCHES = 10
SHOWN_GROUPS = 8


def read(context: Context, request: Request) -> Page:
    """Raises SQLAlchemyError."""
    settings, view, known = context.settings, context.watch.latest(), ledger(context)
    groups = grouped(context, Selection())

    def read_hour(connection: Connection) -> tuple[datetime, list[Minute]]:
        now = database_now(connection)
        return now, attempts_by_minute(connection, now)

    def read_rest(connection: Connection) -> tuple[list[Rhythm], list[Operation]]:
        known = rhythms(connection, database_now(connection))
        return [each for each in known if each.is_overdue], under_way(connection)

    hour_ended_at, minutes = context.read("last hour", read_hour, fresh_seconds=20.0)
    now, counted = counts(context, Filter())
    found = listed(context, Filter(is_in_need=True))[1][:SHOWN_BRANCHES]
    overdue, operations = context.read("overdue", read_rest)
    total_letters = sum(group.letters for group in groups)
    facts = Facts(
        now=now,
        view=view,
        census=counted,
        letters=total_letters,
        missing_events=known.audit.missing_events,
        reused_events=known.audit.reused_events,
        overflow=known.audit.overflow,
        silent=known.silent,
        last_event_at=known.last_event_at,
        overdue=overdue,
        operations=operations,
    )
    said = remarks(facts)
    document = {
        "level": said[0].level,
        "verdict": said[0].sentence,
        "remarks": [to_builtins(each) for each in said],
        "last_event_at": known.last_event_at,
        "branches": {
            "total": counted.total,
            **{state.replace("-", "_"): counted.states[state] for state in BranchState},
            "stale": counted.stale,
            "in_need": counted.in_need,
        },
        "attention": found,
        "letters": {
            "total": total_letters,
            "oldest": min((group.oldest for group in groups), default=None),
            "groups": [dict(group._mapping) for group in groups[:SHOWN_GROUPS]],
            "more_groups": max(0, len(groups) - SHOWN_GROUPS),
        },
        "missing_events": known.audit.missing_events,
        "reused_events": known.audit.reused_events,
        "overflow": known.audit.overflow,
        "missing": _missing(known),
        "silent_hosts": [to_builtins(each, builtin_types=(datetime,)) for each in known.silent],
        "overdue_scripts": [to_builtins(each) for each in overdue],
        "operations": [shown_as(each) for each in operations],
        "broker_is_away": view.seen.broker_is_away if view and view.seen else None,
        "partitions": partitions(view),
        "workers": workers(view),
        "minutes": [to_builtins(each) for each in minutes],
        "waiting": list(view.waiting) if view else [],
    }
    extra = {
        "charts": _charts(hour_ended_at, minutes, view),
        "stale_after": span(settings.patience.stale_after.total_seconds()),
    }
    return Page("now.html", "Now", now, document, extra)


def _missing(known: Ledger) -> list[dict[str, Any]]:
    return [
        {
            "source": each.source,
            "hostname": each.hostname,
            "missing_events": each.missing_events,
            "reused_events": each.reused_events,
        }
        for each in known.audit.accounts
        if each.missing_events or each.reused_events
    ]


def _charts(
    ended_at: datetime, minutes: Sequence[Minute], view: View | None
) -> list[dict[str, Any]]:
    """Each with a title, what it says in words, and the drawing."""
    times = [ended_at - timedelta(minutes=len(minutes) - index) for index in range(len(minutes))]
    completed = sum(each.completed for each in minutes)
    failed = sum(each.failed for each in minutes)
    waiting = view.waiting if view else []
    lengths = [each.mean_seconds or 0.0 for each in minutes]
    counted = f"{completed:,} completed, {failed:,} failed"
    took = f"mean up to {exact_span(max(lengths, default=0.0))}"
    most = max((each for each in waiting if each is not None), default=None)
    waited = "not known" if most is None else f"at most {most:,}"
    return [
        {
            "title": "Attempts a minute",
            "says": counted,
            "svg": chart(
                [
                    Bar(
                        [
                            ("ok", each.completed),
                            ("failed", each.failed),
                            ("open", each.unfinished),
                        ],
                        f"{at:%H:%M} UTC: {each.completed:,} completed, {each.failed:,} failed,"
                        f" {each.unfinished:,} under way",
                    )
                    for at, each in zip(times, minutes, strict=True)
                ],
                f"Attempts of the last hour, by minute: {counted}",
            ),
        },
        {
            "title": "Duration",
            "says": took,
            "svg": chart(
                [
                    Bar([("plain", length)], f"{at:%H:%M} UTC: {exact_span(length)} on average")
                    for at, length in zip(times, lengths, strict=True)
                ],
                f"How long attempts took in the last hour, by minute: {took}",
            ),
        },
        {
            "title": "Events waiting in the broker",
            "says": waited,
            "svg": chart(
                [
                    Bar(
                        [("plain", each or 0)],
                        f"{len(waiting) - index} min ago: "
                        + ("not known" if each is None else f"{each:,} waited"),
                    )
                    for index, each in enumerate(waiting)
                ],
                f"Events that waited in the last hour, by minute: {waited}",
            ),
        },
    ]
