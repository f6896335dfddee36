"""Audit: who reports, what has arrived from each, what is missing, and what was settled."""

from msgspec import structs
from starlette.requests import Request

from mirrorfeed.consumer.database import age_seconds
from mirrorfeed.consumer.sources.decisions import decisions
from mirrorfeed.consumer.web.context import Context, Page
from mirrorfeed.consumer.web.pages.ledger import ledger


def read(context: Context, request: Request) -> Page:
    """Raises SQLAlchemyError."""
    known = ledger(context)
    settled = context.read("decisions", decisions, fresh_seconds=5.0)
    silent = {each.name for each in known.silent}
    sources = [
        {
            "source": each.source,
            "hostname": each.hostname,
            "first_heard_at": each.first_heard_at,
            "last_heard_at": each.last_heard_at,
            "silent_seconds": age_seconds(known.at, each.last_heard_at),
            "is_silent": (each.hostname or each.source) in silent,
            "highest": each.highest,
            "received": each.received,
            "missing_events": each.missing_events,
            "accepted": each.accepted,
            "reused_events": each.reused_events,
            "dead": each.dead,
            "overflow": each.overflow,
        }
        for each in known.accounts
    ]
    missing = [
        {
            "source": account.source,
            "first": each.first,
            "last": each.last,
            "missing_seconds": round(each.missing_seconds, 3),
        }
        for account in known.accounts
        for each in account.missing
    ]
    reused = [
        {"source": account.source, "first": first, "last": last}
        for account in known.accounts
        for first, last in account.reused
    ]
    document = {
        "sources": sources,
        "missing": missing,
        "missing_total": known.audit.missing_events,
        "unlisted_ranges": sum(each.missing_ranges - len(each.missing) for each in known.accounts),
        "reused": reused,
        "reused_total": known.audit.reused_events,
        "overflow_total": known.audit.overflow,
        "silent": [
            {"name": each.name, "last_heard_at": each.last_heard_at} for each in known.silent
        ],
        "decisions": [structs.asdict(each) for each in settled],
    }
    return Page("audit.html", "Audit", known.at, document)
