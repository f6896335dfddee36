"""Workers and partitions: who consumes what, how much waits, and whether it moves."""

from datetime import datetime
from typing import Any

from msgspec import to_builtins
from sqlalchemy import Connection
from starlette.requests import Request

from mirrorfeed.consumer.database import database_now
from mirrorfeed.consumer.partitions.assignment import living
from mirrorfeed.consumer.web.context import Context, Page
from mirrorfeed.consumer.web.partitions import partitions, workers


def read(context: Context, request: Request) -> Page:
    """Raises SQLAlchemyError."""

    def read_members(connection: Connection) -> tuple[datetime, dict[str, Any]]:
        versions = {
            f"{each.hostname}, process {each.pid}": each.version for each in living(connection)
        }
        return database_now(connection), versions

    now, versions = context.read("members", read_members)
    view = context.watch.latest()
    seen = view.seen if view else None
    document = {
        "looked_seconds_ago": view.age_seconds if view else None,
        "broker_is_away": seen.broker_is_away if seen else None,
        "layout": to_builtins(seen.layout) if seen else None,
        "partitions": partitions(view),
        "workers": [{**each, "version": versions.get(each["name"])} for each in workers(view)],
    }
    return Page("workers.html", "Workers", now, document)
