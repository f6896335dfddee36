"""Many hosts report what they did; one database shows the truth.

    from mirrorfeed import BranchStatusClient

is what a puller needs, and loads neither a database library nor a broker's. What runs beside the
database is in `mirrorfeed.consumer`.
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
