"""How branches that something changed, or would, are shown."""

from collections.abc import Iterable
from typing import Any

from mirrorfeed.consumer.branches.mirror_state import Difference
from mirrorfeed.consumer.commands.output import print_table
from mirrorfeed.contract.secrets import mask_secrets


def print_differences(differences: Iterable[Difference]) -> None:
    """Each branch's columns that differ, before and after."""
    rows = [
        (branch.branch_id, column, masked(branch.before[column]), masked(branch.after[column]))
        for branch in differences
        for column in branch.before
        if branch.before[column] != branch.after[column]
    ]
    print_table(("branch", "column", "before", "after"), rows)


def masked(value: Any) -> Any:
    return mask_secrets(value) if isinstance(value, str) else value


def as_document(differences: Iterable[Difference]) -> list[dict[str, Any]]:
    return [each.as_json() for each in differences]
