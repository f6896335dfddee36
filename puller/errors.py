"""Why the puller as a whole cannot go on. What keeps one branch from being mirrored is a
`mirrorfeed.puller.reasons.MirrorFailure`, and stops nothing else."""


class PullerError(Exception):
    """Base of these errors; the message says what to do."""


class BadBranchList(PullerError):
    """The list cannot be read, or a line of it is wrong; nothing of it counts."""


class FolderInUse(PullerError):
    """Another puller works in the folder of the mirrors."""


class NotMet(PullerError):
    """What was asked for is not so: no such branch, too much to remove."""
