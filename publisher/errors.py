"""What can go wrong in a call to the client.

    PublisherError
    ├── SpoolError          the spool cannot be used: no permission, not a spool file, broken
    │   ├── SpoolFull       the spool, or the disk under it, has no room for the event
    │   └── SpoolBusy       another process kept writing to it for too long
    └── AttemptNotStarted   an attempt was completed that had not been started

A bad argument raises `mirrorfeed.contract.events.InvalidEvent`, a ValueError. Network trouble
raises nothing: no call waits for the network.
"""


class PublisherError(Exception):
    """Base of this package's errors."""


class SpoolError(PublisherError):
    """The spool cannot be used; the event was not taken."""


class SpoolFull(SpoolError):
    """The spool has no room; the event was not taken, and none that was taken is lost."""


class SpoolBusy(SpoolError):
    """Somebody else wrote to the spool for too long; the event was not taken."""


class AttemptNotStarted(PublisherError):
    """A completion needs the attempt's start, which becomes the branch's `last_mirrored`."""
