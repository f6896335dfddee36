"""Replacing the body of a dead letter with one that can be applied."""

from sqlalchemy import Engine, func, update

from mirrorfeed.consumer.apply.batch import write_batch
from mirrorfeed.consumer.apply.message import (
    DEFAULT_LIMITS,
    Limits,
    Rejection,
    branch_id_of,
    branch_ids_of,
    read_message,
)
from mirrorfeed.consumer.apply.projection import lock_branches
from mirrorfeed.consumer.dead_letters.store import LETTERS, LetterState, lock
from mirrorfeed.consumer.errors import StillDead


def edit(
    engine: Engine,
    letter_id: int,
    body: bytes,
    *,
    limits: Limits = DEFAULT_LIMITS,
    is_trial: bool = False,
) -> None:
    """Replaces a dead letter's body and keeps what was delivered; with `is_trial` it only finds out
    whether that would do.

    Raises StillDead, having changed nothing, if the new body could not be applied either, and
    LetterError if the letter is not dead.
    """
    message = read_message(body, limits=limits)
    content = message.content
    if isinstance(content, Rejection):
        raise StillDead(_why_refused(letter_id, content))
    event = content.event
    with engine.begin() as connection:
        lock_branches(connection, branch_ids_of([message]))
        lock(connection, [letter_id], LetterState.DEAD)
        trial = connection.begin_nested()
        for _, rejection in write_batch(connection, [message], {}, {}):
            raise StillDead(_why_refused(letter_id, rejection))
        trial.rollback()
        if is_trial:
            return
        connection.execute(
            update(LETTERS)
            .where(LETTERS.c.id == letter_id)
            .values(
                body=body,
                original_body=func.coalesce(LETTERS.c.original_body, LETTERS.c.body),
                source=content.source,
                event_id=content.id,
                type=event.TYPE,
                branch_id=branch_id_of(event),
            )
        )


def _why_refused(letter_id: int, rejection: Rejection) -> str:
    return (
        f"the new body could not be applied either ({rejection.reason}: {rejection.detail});"
        f" letter {letter_id} is as it was"
    )
