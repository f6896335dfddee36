"""Why a message could not be applied: the codes of `dead_letter.reason`."""

from enum import StrEnum


class Reason(StrEnum):
    """Dead-letter reasons in the order in which they are checked; the first that fits is used."""

    TOO_LARGE = "too-large"
    MALFORMED = "malformed"
    UNKNOWN_TYPE = "unknown-type"
    INVALID = "invalid"
    FROM_THE_FUTURE = "from-the-future"
    UNKNOWN_BRANCH = "unknown-branch"
    REJECTED_BY_DATABASE = "rejected-by-database"
    DELIVERY_LIMIT = "delivery-limit"
