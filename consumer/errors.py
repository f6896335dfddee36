"""What can go wrong beside the database, and the exit code of the command that it ends.

    ConsumerError
    ├── ConditionNotMet          1  the condition does not hold; nothing was changed
    │   ├── LedgerError             a source, numbers or a decision that do not exist
    │   ├── LetterError             letters that do not exist, or are not in the state needed
    │   ├── OperationError          an operation that was stopped, or would have no letters
    │   │   └── UnknownOperation    one that does not exist
    │   ├── StillDead               an edited message that could not be applied either
    │   └── UnknownBranches         branches that are not registered
    ├── UsageError               2  the command or the configuration must be corrected first
    │   ├── BadBranchFile           a file of branches that cannot be read
    │   ├── BadLetterFile           a file of letters that cannot be read
    │   ├── BranchConflict          an id or a name that already belongs to another branch
    │   ├── LayoutError             the number of partitions is not set, or is being changed
    │   ├── SchemaMissing           a database whose tables are missing or too old
    │   ├── SessionsMissing         a connection pooler that gives no session of one's own
    │   ├── RightMissing            a database user who lacks the right
    │   └── RefusedByDatabase       data that the database will never accept
    └── ServerUnavailable        3  a server cannot be reached, or cannot do it right now
        ├── DatabaseUnavailable     PostgreSQL
        └── ConsumerCancelled       RabbitMQ, which has ended a subscription

`commands.program.as_consumer_error` maps other errors to these: SQLAlchemy's `DBAPIError`, the
`BrokerUnavailable` of `mirrorfeed.amqp`, and the `ValueError` for a bad branch id, URL and so on.
"""

from typing import ClassVar

from mirrorfeed.contract import exit_codes


class ConsumerError(Exception):
    """Base of this package's errors; the message says what was wrong and what to do."""

    exit_code: ClassVar[int]


class ConditionNotMet(ConsumerError):
    """The condition asked about does not hold, or rules out the command; nothing was changed."""

    exit_code = exit_codes.NOT_MET


class LedgerError(ConditionNotMet):
    """A source, numbers of one or a decision were named that do not exist."""


class LetterError(ConditionNotMet):
    """Letters were named that do not exist, or are not in the state needed."""


class OperationError(ConditionNotMet):
    """An operation was stopped or taken over, or would have no letters."""


class UnknownOperation(OperationError):
    """There is no such operation."""


class StillDead(ConditionNotMet):
    """An edited message could not be applied either; the message says why."""


class UnknownBranches(ConditionNotMet):
    """Branches were named that are not registered."""


class UsageError(ConsumerError):
    """The command, or the configuration of what it uses, must be corrected first."""

    exit_code = exit_codes.USAGE


class BadBranchFile(UsageError):
    """A file of branches cannot be read; the message names the line and what is wrong with it."""


class BadLetterFile(UsageError):
    """A file of letters cannot be read; the message names the line and the mistake."""


class BranchConflict(UsageError):
    """An id or a name already belongs to another branch; the message names each."""


class LayoutError(UsageError):
    """The number of partitions has not been set yet, or is being changed."""


class SchemaMissing(UsageError):
    """The database is there, but its tables are missing or too old."""


class SessionsMissing(UsageError):
    """A connection pooler gives no session of one's own."""


class RightMissing(UsageError):
    """The database user lacks the right to do what was asked."""


class RefusedByDatabase(UsageError):
    """The database refuses the data, and always will."""


class ServerUnavailable(ConsumerError):
    """A server cannot be reached, or cannot do it right now."""

    exit_code = exit_codes.UNREACHABLE


class DatabaseUnavailable(ServerUnavailable):
    """PostgreSQL cannot be reached, or cannot take a transaction right now."""


class ConsumerCancelled(ServerUnavailable):
    """The broker ended a subscription: its queue was deleted, or has no leader."""
