"""What a good engineer writes for one message: a transaction of two statements, safe to repeat.

The branch row is touched only if the attempt's row changed, and never by anything older than it
shows.
"""

import os
import signal
from collections.abc import Callable, Iterable
from datetime import datetime
from multiprocessing import Process
from typing import Any

from sqlalchemy import URL, Connection, Executable, bindparam, func, make_url, or_, update
from sqlalchemy.dialects.postgresql import insert

from mirrorfeed.consumer import Branch, ScriptActivity
from mirrorfeed.consumer.tables import MirrorAttempt
from mirrorfeed.contract import environment

Event = dict[str, Any]
"""A CloudEvent, as the JSON parser returns it."""
Step = tuple[Executable, dict[str, Any]]

_upsert = insert(MirrorAttempt)
UPSERT_ATTEMPT = _upsert.on_conflict_do_update(
    index_elements=[MirrorAttempt.branch_id, MirrorAttempt.started_at],
    set_={
        name: _upsert.excluded[name]
        for name in ("finished_at", "outcome", "revision_id", "failure_reason")
    },
    where=MirrorAttempt.outcome.is_(None) & _upsert.excluded.outcome.is_not(None),
)
INSERT_RUN = insert(ScriptActivity).on_conflict_do_nothing().inline()

_started_at = bindparam("started_at", type_=Branch.last_mirrored.type)
_begun = (
    update(Branch)
    .where(Branch.id == bindparam("branch_id"))
    .values(last_mirror_attempt=func.greatest(Branch.last_mirror_attempt, _started_at))
)
_ended = _begun.where(or_(Branch.last_mirrored.is_(None), Branch.last_mirrored < _started_at))
UPDATE_BRANCH = {
    "mirror.started": _begun,
    "mirror.completed": _ended.values(
        last_mirrored=_started_at,
        last_mirrored_id=bindparam("revision_id"),
        mirror_failures=0,
        mirror_status_message=None,
    ),
    "mirror.failed": _ended.values(
        mirror_failures=Branch.mirror_failures + 1,
        mirror_status_message=bindparam("reason"),
    ),
}


def database_url(driver: str) -> URL:
    return make_url(os.environ[environment.DATABASE_URL]).set(drivername=f"postgresql+{driver}")


def apply(connection: Connection, event: Event) -> None:
    """Runs within the caller's transaction."""
    first, then = _steps(event)
    if connection.execute(*first).rowcount and then:
        connection.execute(*then)


def _steps(event: Event) -> tuple[Step, Step | None]:
    """The first statement, and the one to run if that changed something."""
    kind, data = event["type"], event["data"]
    started_at = datetime.fromisoformat(data["started_at"])
    if kind == "script.run":
        run = {
            "name": data["name"],
            "hostname": data["hostname"],
            "date_started": started_at,
            "date_completed": datetime.fromisoformat(data["completed_at"]),
        }
        return (INSERT_RUN, run), None
    has_ended = kind != "mirror.started"
    attempt = {
        "branch_id": data["branch_id"],
        "started_at": started_at,
        "finished_at": datetime.fromisoformat(event["time"]) if has_ended else None,
        "outcome": kind.removeprefix("mirror.") if has_ended else None,
        "revision_id": data.get("revision_id"),
        "failure_reason": data.get("reason"),
    }
    return (UPSERT_ATTEMPT, attempt), (UPDATE_BRANCH[kind], {**data, "started_at": started_at})


def run_each(
    target: Callable[[Any], object],
    arguments: Iterable[Any],
    end: Callable[[Process], None] = Process.terminate,
) -> None:
    """Runs `target` with each of the arguments, each in its own process; SIGTERM ends them all."""
    nodes = [Process(target=target, args=[argument]) for argument in arguments]
    for node in nodes:
        node.start()

    def end_all(*_: object) -> None:
        for node in nodes:
            end(node)

    signal.signal(signal.SIGTERM, end_all)
    for node in nodes:
        node.join()
