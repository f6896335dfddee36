"""What can go wrong in a call to the client.

    PublisherError
    ├── SpoolError          the spool cannot be used: no permission, no spool file, a broken one
    │   ├── SpoolFull       it, or the disk under it, has no room for the event
    │   └── SpoolBusy       another process writes to it, and did not end
    └── AttemptNotStarted   an attempt was completed that nobody started

A bad argument raises `mirrorfeed.contract.events.InvalidEvent`, a ValueError. The network raises
nothing: no call waits for it.
"""


class PublisherError(Exception):
    """Base of this package's errors."""


class SpoolError(PublisherError):
    """The spool cannot be used; the event was not taken."""


class SpoolFull(SpoolError):
    """The spool has no room; the event was not taken, and none that was taken is dropped."""


class SpoolBusy(SpoolError):
    """Somebody else was writing to the spool for too long; the event was not taken."""


class AttemptNotStarted(PublisherError):
    """A completed attempt needs its start, which is when the branch was `last_mirrored`."""
