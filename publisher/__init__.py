"""What runs on puller hosts: the client, its spool and the forwarder. Knows no database."""

import logging

from contract.events import InvalidEvent
from publisher.client import BranchStatusClient, MirrorAttempt
from publisher.errors import AttemptNotStarted, PublisherError, SpoolBusy, SpoolError, SpoolFull

__all__ = [
    "AttemptNotStarted",
    "BranchStatusClient",
    "InvalidEvent",
    "MirrorAttempt",
    "PublisherError",
    "SpoolBusy",
    "SpoolError",
    "SpoolFull",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
