"""Scripts: when each ran last, on each host."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request

from mirrorfeed.consumer.branches.scripts import last_runs
from mirrorfeed.consumer.database import database_now
from mirrorfeed.consumer.web.context import Context, Page


def read(context: Context, request: Request) -> Page:
    """Raises SQLAlchemyError."""

    def read_runs(connection: Connection) -> tuple[datetime, list[dict[str, Any]]]:
        now = database_now(connection)
        return now, last_runs(connection, now=now)

    now, runs = context.read("scripts", read_runs)
    return Page("scripts.html", "Scripts", now, {"scripts": runs})
