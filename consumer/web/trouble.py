"""What went wrong on the way to a page, as a status and a sentence."""

from http import HTTPStatus

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mirrorfeed.amqp.connections import BrokerUnavailable
from mirrorfeed.consumer.database import meaning
from mirrorfeed.consumer.errors import (
    ConditionNotMet,
    ConsumerError,
    LayoutError,
    LetterError,
    RefusedByDatabase,
    RightMissing,
    UnknownBranches,
    UnknownOperation,
    UsageError,
)
from mirrorfeed.contract.secrets import mask_secrets

NOT_FOUND = (LetterError, UnknownBranches, UnknownOperation)
BAD_REQUEST = (RefusedByDatabase, ValueError)
CONFLICT = (ConditionNotMet, LayoutError)


def status_of(error: Exception) -> HTTPStatus | None:
    """None if the error is a bug."""
    known = _known(error)
    if isinstance(known, NOT_FOUND):
        return HTTPStatus.NOT_FOUND
    if isinstance(known, BAD_REQUEST):
        return HTTPStatus.BAD_REQUEST
    if isinstance(known, CONFLICT):
        return HTTPStatus.CONFLICT
    if isinstance(known, ConsumerError | SQLAlchemyError | BrokerUnavailable):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return None


def in_words(error: Exception) -> str:
    """The sentence, without secrets."""
    known = _known(error)
    if isinstance(known, SQLAlchemyError):
        return "all connections of this page to the database are busy"
    return mask_secrets(str(known))


def headline_of(error: Exception) -> str:
    """What the page says in large letters."""
    match status_of(error):
        case HTTPStatus.NOT_FOUND:
            return "There is no such thing"
        case HTTPStatus.BAD_REQUEST:
            return "That cannot be asked"
        case HTTPStatus.CONFLICT:
            return "That cannot be done"
        case _ if isinstance(_known(error), UsageError | RightMissing):
            return "The database cannot be read yet"
        case _:
            return "The database is away"


def _known(error: Exception) -> Exception:
    return meaning(error) if isinstance(error, DBAPIError) else error
