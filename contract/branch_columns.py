"""The columns of a file of branches, which `mirror-consumer branches import` and the puller read.

Each takes the other's columns and does without them, so that one file is enough.
"""

NEEDED = frozenset({"id", "unique_name"})
URL = "url"
STATE = frozenset(
    {
        "last_mirror_attempt",
        "last_mirrored",
        "last_mirrored_id",
        "mirror_failures",
        "mirror_status_message",
    }
)
"""What the register takes over from another system."""
OF_PULLERS = frozenset({"vcs", "interval", "refs"})
"""How a branch is mirrored."""
