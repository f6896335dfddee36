"""What an operation would do, before it does it: the set of letters, and what a dry run shows."""

from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import Any

from msgspec import Struct, field, structs
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from mirrorfeed.consumer.apply.message import DEFAULT_LIMITS, Limits
from mirrorfeed.consumer.branches.mirror_state import Difference
from mirrorfeed.consumer.database import is_lock_timeout
from mirrorfeed.consumer.dead_letters.plan import LOOKED_AT_BYTES, Planned, plan
from mirrorfeed.consumer.dead_letters.replay import Trial, try_together, whole_branches
from mirrorfeed.consumer.dead_letters.store import LETTERS, Selection, count
from mirrorfeed.consumer.errors import OperationError
from mirrorfeed.consumer.operations import store
from mirrorfeed.consumer.operations.store import Kind, State

MOST_LETTERS = 100_000
"""In one operation of the page. `mirror-replay` takes any number."""
MOST_TRIED = 2000
"""Letters in a dry run: their branches are locked meanwhile, a hundred letters at a time."""
AT_ONCE = 100
TRIED_SECONDS = 3.0
SHOWN_BRANCHES = 100
SHOWN_REASONS = 10


class Summary(Struct):
    """What a dry run has shown so far."""

    tried: int = 0
    locked: int = 0
    """Letters that could not be tried, because somebody held their branches."""
    outcomes: Counter[str] = field(default_factory=Counter)
    branches: int = 0
    """How many branches would change."""
    differences: list[Difference] = field(default_factory=list)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Of the letters that would stay dead: reason and error."""

    def add(self, trial: Trial) -> None:
        self.tried += len(trial.outcomes) + trial.skipped
        self.outcomes.update(each.outcome for each in trial.outcomes)
        if trial.skipped:
            self.outcomes["skipped"] += trial.skipped
        self.branches += len(trial.differences)
        self.differences += trial.differences[: SHOWN_BRANCHES - len(self.differences)]
        self.reasons.update(
            (str(each.reason), each.detail or "")
            for each in trial.outcomes
            if each.outcome == "dead"
        )

    def as_document(self, letters: int) -> dict[str, Any]:
        return {
            "tried": self.tried,
            "untried": letters - self.tried - self.locked,
            "locked": self.locked,
            "outcomes": dict(self.outcomes),
            "branches": self.branches,
            "differences": [each.as_json() for each in self.differences],
            "reasons": [
                {"reason": reason, "detail": detail, "letters": letters}
                for (reason, detail), letters in self.reasons.most_common(SHOWN_REASONS)
            ],
        }


def preview(
    engine: Engine,
    kind: Kind,
    selection: Selection,
    actor: str,
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> int:
    """Keeps exactly the letters that match now, as an operation that may be started; returns its
    id. If they are to be applied, a dry run of the first of them tells what that would change.

    Raises OperationError if there are none or too many, and DBAPIError.
    """
    with engine.begin() as connection:
        _check(count(connection, selection))
        if kind is Kind.APPLY:
            planned = plan(connection, selection)
            letters = [(each.id, each.digest) for each in planned]
        else:
            planned, letters = [], identified(connection, selection)
    shown = _try(engine, planned, limits).as_document(len(planned)) if planned else None
    with engine.begin() as connection:
        return store.begin(
            connection,
            kind,
            asked_as_document(selection),
            letters,
            actor,
            state=State.PREVIEWED,
            preview=shown,
        )


def asked_as_document(selection: Selection) -> dict[str, Any]:
    """The criteria that were given."""
    default = Selection()
    return {
        name: value
        for name, value in structs.asdict(selection).items()
        if value != getattr(default, name) and name != "state"
    }


def identified(connection: Connection, selection: Selection) -> list[tuple[int, bytes]]:
    """The letters by id, each with the digest that `plan` gives it."""
    looked_at = func.substr(LETTERS.c.body, 1, LOOKED_AT_BYTES)
    query = (
        select(LETTERS.c.id, func.pg_catalog.sha256(looked_at))
        .where(*selection.conditions())
        .order_by(LETTERS.c.id)
        .limit(selection.limit)
    )
    return [(letter_id, bytes(digest)) for letter_id, digest in connection.execute(query)]


def _check(letters: int) -> None:
    if not letters:
        raise OperationError("there are no such letters")
    if letters > MOST_LETTERS:
        raise OperationError(
            f"{letters:,} letters are more than the {MOST_LETTERS:,} that the page takes at once:"
            " select fewer, or use mirror-replay"
        )


def _try(engine: Engine, planned: Sequence[Planned], limits: Limits) -> Summary:
    began_at = monotonic()
    summary = Summary()
    for chunk in whole_branches(planned[:MOST_TRIED], AT_ONCE):
        if monotonic() - began_at > TRIED_SECONDS:
            break
        try:
            trial = try_together(engine, chunk, limits)
        except DBAPIError as error:
            if not is_lock_timeout(error):
                raise
            summary.locked += len(chunk)
        else:
            summary.add(trial)
    return summary
