"""How many letters one source may fill in an hour; what is beyond that is counted, and not kept.

Whoever floods a queue with messages that cannot be applied would otherwise fill `dead_letter`. The
hour is that of the database's clock. A source is taken by its first SOURCE_CHARACTERS characters,
as an index cannot hold one of any length. All that has none shares one allowance.
"""

import logging
import threading
import time
from collections.abc import Iterable, Sequence

from msgspec import Struct
from sqlalchemy import Connection, text

from mirrorfeed.contract.reasons import Reason

LETTERS_PER_HOUR = 10_000
SOURCE_CHARACTERS = 500
"""As in the index `dead_letter_allowance`."""
HOUR_SECONDS = 3600.0

# A message that has a letter already is counted there. Two workers that bury at the same moment do
# not see each other's letters, so they may keep a batch too many.
COUNT_BEYOND = text(f"""
    WITH new AS (
        SELECT
            sent.*, coalesce(left(source, {SOURCE_CHARACTERS}), '') AS filled_by,
            row_number() OVER (
                PARTITION BY coalesce(left(source, {SOURCE_CHARACTERS}), '') ORDER BY place
            ) AS nth
        FROM ROWS FROM (
            pg_catalog.unnest(CAST(:digests AS bytea[])),
            pg_catalog.unnest(CAST(:sources AS text[])),
            pg_catalog.unnest(CAST(:reasons AS text[]))
        ) WITH ORDINALITY AS sent (digest, source, reason, place)
        WHERE NOT EXISTS (
            SELECT FROM dead_letter WHERE sha256(coalesce(original_body, body)) = digest
        )
    ),
    filled AS (
        SELECT filled_by, letters
        FROM (SELECT DISTINCT filled_by FROM new) each
        CROSS JOIN LATERAL (
            SELECT count(*) AS letters FROM (
                SELECT FROM dead_letter
                WHERE coalesce(left(source, {SOURCE_CHARACTERS}), '') = filled_by
                    AND first_seen_at >= date_trunc('hour', now())
                LIMIT :letters_per_hour
            ) this_hour
        ) counted
    ),
    beyond AS (
        SELECT new.* FROM new JOIN filled USING (filled_by) WHERE nth > :letters_per_hour - letters
    ),
    noted AS (
        INSERT INTO letter_overflow (source, reason, digests)
        SELECT left(source, {SOURCE_CHARACTERS}), reason, pg_catalog.array_agg(digest)
        FROM beyond GROUP BY 1, 2
    )
    SELECT place FROM beyond
""")  # noqa: S608

logger = logging.getLogger(__name__)


class Sent(Struct, frozen=True, gc=False):
    """A message that is to be buried: the SHA-256 of its body, and what could be read of it."""

    digest: bytes
    source: str | None
    reason: Reason

    @property
    def filled_by(self) -> str:
        """Whose allowance it takes; empty if its source could not be read."""
        return (self.source or "")[:SOURCE_CHARACTERS]


def count_beyond(connection: Connection, sent: Sequence[Sent], letters_per_hour: int) -> list[Sent]:
    """Notes those for which their source has no letter left, and returns them. Without a bound,
    which is 0, these are none."""
    if not letters_per_hour:
        return []
    given = {
        "digests": [each.digest for each in sent],
        "sources": [each.source for each in sent],
        "reasons": [each.reason for each in sent],
        "letters_per_hour": letters_per_hour,
    }
    return [sent[place - 1] for place in connection.scalars(COUNT_BEYOND, given)]


class Floods:
    """Says in the log that a source's allowance is used up: once an hour, not for each message."""

    def __init__(self, letters_per_hour: int) -> None:
        self._letters_per_hour = letters_per_hour
        self._told_at: dict[str, float] = {}
        self._telling = threading.Lock()

    def tell(self, beyond: Iterable[Sent]) -> None:
        """These were counted only, and that is committed. From any thread."""
        now = time.monotonic()
        with self._telling:
            told_at = self._told_at
            told_at = {each: at for each, at in told_at.items() if now - at < HOUR_SECONDS}
            news = {each.filled_by for each in beyond} - told_at.keys()
            self._told_at = told_at | dict.fromkeys(news, now)
        for source in sorted(news):
            logger.warning(
                "a source has used up its letters of this hour: more messages that cannot be"
                " applied are counted, and not kept",
                extra={
                    "source": source or "none that could be read",
                    "letters_per_hour": self._letters_per_hour,
                    "see": "mirror-replay list --overflow",
                },
            )
