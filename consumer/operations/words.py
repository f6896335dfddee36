"""Operations in words, for a terminal and the page."""

from mirrorfeed.consumer.operations.store import Kind, Operation
from mirrorfeed.consumer.words import plural

CRITERIA = {
    "source": "source",
    "reason": "reason",
    "type": "type",
    "branch_id": "branch",
    "host": "host",
    "like_id": "the error of letter",
    "since": "since",
    "discarded_at": "discarded at",
    "limit": "at most",
}
"""What a selection's criteria are called."""
MOST_IDS = 10


def described(operation: Operation) -> str:
    """What it does, in a few words."""
    if operation.kind is Kind.REPARTITION:
        return f"move to {plural(operation.asked['partitions'], 'partition')}"
    return f"{operation.kind} {plural(operation.letters, 'letter')}"


def criteria(operation: Operation) -> str:
    """How its letters were selected."""
    said = [
        f"{name} {operation.asked[field]}"
        for field, name in CRITERIA.items()
        if field in operation.asked
    ]
    if ids := operation.asked.get("ids"):
        shown = ", ".join(map(str, ids[:MOST_IDS]))
        said.append(f"by number: {shown}{' and more' if len(ids) > MOST_IDS else ''}")
    return ", ".join(said) or "all of them"


def result_of(operation: Operation) -> str:
    """What has become of its letters so far; or why it failed, or what it waits for."""
    counts = [
        f"{operation.result[name]:,} {said}"
        for name, said in OUTCOMES.items()
        if operation.result.get(name)
    ]
    return ", ".join([*counts, *([operation.detail] if operation.detail else [])])


OUTCOMES = {
    "applied": "applied",
    "unchanged": "already known",
    "dead": "still dead",
    "skipped": "skipped",
    "discarded": "discarded",
    "restored": "restored",
}
"""What has become of a letter, as people read it."""
WOULD_BE = {
    "applied": "would be applied",
    "unchanged": "would tell nothing new",
    "dead": "would stay dead",
    "skipped": "would be skipped",
}
"""The same before it has happened."""
