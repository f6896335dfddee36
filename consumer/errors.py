"""What can go wrong beside the database, and the exit code of a command that ends with it.

    ConsumerError
    ├── ConditionNotMet          1  what was asked about is not so; nothing was changed
    │   ├── LetterError             letters that are not there, or not in the state that this needs
    │   ├── StillDead               an edited message that could not be applied either
    │   └── UnknownBranches         branches that are not registered
    ├── UsageError               2  the command or the configuration must be put right first
    │   ├── BadBranchFile           a file of branches that cannot be read
    │   ├── BadLetterFile           a file of letters that cannot be read
    │   ├── BranchConflict          an id or a name that is another branch's already
    │   ├── LayoutError             how many partitions there are is not known, or is being changed
    │   ├── SchemaMissing           a database without the tables, or with those of an older version
    │   ├── RightMissing            a database user without the right for it
    │   └── RefusedByDatabase       data that the database takes in no state it could be in
    └── ServerUnavailable        3  a server cannot be reached, or cannot do it now
        ├── DatabaseUnavailable     PostgreSQL
        └── ConsumerCancelled       RabbitMQ, which has ended a subscription

What others raise means one of these, and `commands.program.as_consumer_error` says which one: the
`DBAPIError` of SQLAlchemy, the `BrokerUnavailable` of `mirrorfeed.amqp`, and the `ValueError` for a
value that is no branch id, no URL and so on.
"""

from typing import ClassVar

from mirrorfeed.contract import exit_codes


class ConsumerError(Exception):
    """Base of this package's errors; the message says what was wrong and what to do."""

    exit_code: ClassVar[int]


class ConditionNotMet(ConsumerError):
    """What was asked about is not so, or cannot be done to what is there; nothing was changed."""

    exit_code = exit_codes.NOT_MET


class LetterError(ConditionNotMet):
    """Letters were named that do not exist, or are not in the state needed."""


class StillDead(ConditionNotMet):
    """An edited message could not be applied either; the message says why."""


class UnknownBranches(ConditionNotMet):
    """Branches were named that are not registered."""


class UsageError(ConsumerError):
    """The command, or the configuration of what it uses, must be put right first."""

    exit_code = exit_codes.USAGE


class BadBranchFile(UsageError):
    """A file of branches cannot be read; the message names the line and what is wrong with it."""


class BadLetterFile(UsageError):
    """A file of letters cannot be read; the message names the line and the mistake."""


class BranchConflict(UsageError):
    """An id or a name already belongs to another branch; the message names each."""


class LayoutError(UsageError):
    """How many partitions there are is not known yet, or is just being changed."""


class SchemaMissing(UsageError):
    """The database is there, but its tables are missing or too old."""


class RightMissing(UsageError):
    """The database user lacks the right to do what was asked."""


class RefusedByDatabase(UsageError):
    """The database refuses the data, now and always."""


class ServerUnavailable(ConsumerError):
    """A server cannot be reached, or cannot do it now."""

    exit_code = exit_codes.UNREACHABLE


class DatabaseUnavailable(ServerUnavailable):
    """PostgreSQL cannot be reached, or cannot take a transaction right now."""


class ConsumerCancelled(ServerUnavailable):
    """The broker ended a subscription: its queue was deleted, or has no leader."""
