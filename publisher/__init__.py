"""What runs on puller hosts: client, spool, forwarder, authserver. Knows no database."""

import logging

from mirrorfeed.contract.events import InvalidEvent
from mirrorfeed.publisher.client import BranchStatusClient, CurrentAttempt
from mirrorfeed.publisher.errors import (
    AttemptNotStarted,
    PublisherError,
    SpoolBusy,
    SpoolError,
    SpoolFull,
)
from mirrorfeed.publisher.spool import SpoolStatus

__all__ = [
    "AttemptNotStarted",
    "BranchStatusClient",
    "CurrentAttempt",
    "InvalidEvent",
    "PublisherError",
    "SpoolBusy",
    "SpoolError",
    "SpoolFull",
    "SpoolStatus",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
