"""Operations: what somebody has done or is about to do, and one of them whole."""

from datetime import datetime
from typing import Any

from msgspec import structs
from sqlalchemy import Connection, select
from starlette.requests import Request

from mirrorfeed.consumer.database import database_now
from mirrorfeed.consumer.operations import store
from mirrorfeed.consumer.operations.store import Kind, Operation, State
from mirrorfeed.consumer.operations.words import (
    OUTCOMES,
    WOULD_BE,
    criteria,
    described,
    result_of,
)
from mirrorfeed.consumer.tables import Branch
from mirrorfeed.consumer.web import query
from mirrorfeed.consumer.web.context import Context, Page

PAGE = 50
SHOWN_LETTERS = 50


def read(context: Context, request: Request) -> Page:
    """Raises ValueError for a place that cannot be, and SQLAlchemyError."""
    before = query.number(request.query_params, "before")

    def read_list(connection: Connection) -> tuple[datetime, list[Operation]]:
        return database_now(connection), store.latest(connection, PAGE + 1, before)

    now, found = context.read(("operations", before), read_list)
    shown = [shown_as(each) for each in found[:PAGE]]
    following = str(shown[-1]["id"]) if len(found) > PAGE else None
    document = {"operations": shown, "next": following}
    return Page("operations.html", "Operations", now, document, {"is_first": before is None})


def read_one(context: Context, request: Request) -> Page:
    """Raises UnknownOperation, ValueError for what is no id, and SQLAlchemyError."""
    operation_id = query.identifier("the operation", request.path_params["operation_id"])

    def read_operation(connection: Connection) -> tuple[Any, ...]:
        operation = store.get(connection, operation_id)
        changed = [each["id"] for each in (operation.preview or {}).get("differences", [])]
        names = select(Branch.id, Branch.unique_name).where(Branch.id.in_(changed))
        return (
            database_now(connection),
            operation,
            {row.id: row.unique_name for row in connection.execute(names)},
            store.letters_with(connection, operation_id, SHOWN_LETTERS),
            store.letters_with(connection, operation_id, SHOWN_LETTERS, ["dead", "skipped"]),
        )

    # Not shared: whoever has just pressed a button sees what that did.
    now, operation, names, letters, left = context.read(
        ("operation", operation_id), read_operation, fresh_seconds=0.0
    )
    document = {
        "operation": shown_as(operation),
        "preview": operation.preview,
        "letters": [letter_id for letter_id, _ in letters],
        "left": [{"letter": letter_id, "outcome": outcome} for letter_id, outcome in left],
    }
    extra = {
        "names": names,
        "changes": _changes(operation),
        "outcomes": OUTCOMES,
        "would_be": WOULD_BE,
        "can_stop": operation.kind is not Kind.REPARTITION
        and operation.state in (State.RUNNING, State.WAITING),
        "can_go_on": operation.state
        in (State.WAITING, State.STOPPED, State.FAILED, State.INTERRUPTED),
        "can_undo": operation.kind is Kind.DISCARD and operation.result.get("discarded"),
        "undo_command": operation.ended_at
        and f"mirror-replay restore --discarded-at {operation.ended_at.isoformat()}",
    }
    return Page("operation.html", f"Operation {operation_id}", now, document, extra)


def shown_as(operation: Operation) -> dict[str, Any]:
    """An operation as pages have it."""
    return {
        **{
            name: value
            for name, value in structs.asdict(operation).items()
            if name not in ("preview", "runner")
        },
        "what": described(operation),
        "criteria": None if operation.kind is Kind.REPARTITION else criteria(operation),
        "said": result_of(operation),
        "done": operation.done,
    }


def _changes(operation: Operation) -> list[dict[str, Any]]:
    """Column by column what the dry run has shown, as the command has it."""
    return [
        {"id": branch["id"], "column": column, "before": before, "after": branch["after"][column]}
        for branch in (operation.preview or {}).get("differences", [])
        for column, before in branch["before"].items()
        if before != branch["after"][column]
    ]
