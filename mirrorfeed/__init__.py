"""Many hosts report what they did; one database shows the truth.

    from mirrorfeed import BranchStatusClient

is all a puller needs; it loads neither a database library nor a broker library. What runs beside
the database is in `mirrorfeed.consumer`.
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
