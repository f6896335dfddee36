"""Scripts: when each ran last, on each host."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from starlette.requests import Request

from mirrorfeed.consumer.branches.scripts import last_runs, rhythms
from mirrorfeed.consumer.database import database_now
from mirrorfeed.consumer.web.context import Context, Page


def read(context: Context, request: Request) -> Page:
    """Raises SQLAlchemyError."""

    def read_runs(connection: Connection) -> tuple[datetime, list[dict[str, Any]]]:
        now = database_now(connection)
        known = {(each.name, each.hostname): each for each in rhythms(connection, now)}
        runs = [
            {
                **run,
                "usual_seconds": known[run["name"], run["hostname"]].usual_seconds,
                "is_overdue": known[run["name"], run["hostname"]].is_overdue,
            }
            for run in last_runs(connection, now=now)
        ]
        return now, runs

    now, runs = context.read("scripts", read_runs)
    return Page("scripts.html", "Scripts", now, {"scripts": runs})
