"""Many hosts report what they did; one database shows the truth.

    from mirrorfeed import BranchStatusClient

is all a puller needs. It loads neither a database library nor a broker library. The part that runs
beside the database is `mirrorfeed.consumer`.
"""

from mirrorfeed.contract.events import InvalidEvent
from mirrorfeed.publisher import (
    AttemptNotStarted,
    BranchStatusClient,
    CurrentAttempt,
    PublisherError,
    SpoolBusy,
    SpoolError,
    SpoolFull,
    SpoolStatus,
)

__all__ = [
    "AttemptNotStarted",
    "BranchStatusClient",
    "InvalidEvent",
    "CurrentAttempt",
    "PublisherError",
    "SpoolBusy",
    "SpoolError",
    "SpoolFull",
    "SpoolStatus",
]
