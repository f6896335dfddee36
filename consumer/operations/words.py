"""Operations in words, for a terminal and the page."""

from mirrorfeed.consumer.operations.store import Kind, Operation

CRITERIA = {
    "ids": "numbers",
    "source": "source",
    "reason": "reason",
    "type": "type",
    "branch_id": "branch",
    "host": "host",
    "like_id": "same error as letter",
    "since": "since",
    "discarded_at": "discarded at",
    "limit": "at most",
}
"""What a selection's criteria are called."""
MOST_IDS = 10


def described(operation: Operation) -> str:
    """What it does, in a few words."""
    if operation.kind is Kind.REPARTITION:
        return f"move to {operation.asked['partitions']} partitions"
    return f"{operation.kind} {criteria(operation)}"


def criteria(operation: Operation) -> str:
    """How its letters were selected."""
    said = [
        f"{CRITERIA[name]} {_value(value)}"
        for name, value in operation.asked.items()
        if name in CRITERIA
    ]
    return ", ".join(said) or "all letters"


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


def _value(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value[:MOST_IDS])) + (" …" if len(value) > MOST_IDS else "")
    return str(value)
