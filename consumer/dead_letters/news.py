"""Which letters tell the database something new: these are applied, others change nothing."""

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, TextClause, text

from mirrorfeed.consumer.apply.message import Message
from mirrorfeed.consumer.apply.projection import RANK_ATTEMPTS, Attempt, attempt_of
from mirrorfeed.contract.events import Envelope, MirrorEvent, ScriptRun, SpoolHeartbeat

# A run event only says that the run took place: the database knows that already, or it does not.
RANK_RUNS = text("""
    SELECT pg_catalog.array_agg(1) AS ranks, pg_catalog.array_agg(CAST(EXISTS (
        SELECT FROM script_activity AS known
        WHERE (known.name, known.hostname) = (said.name, said.hostname)
            AND (date_started, date_completed) = (started_at, completed_at)
    ) AS integer) ORDER BY place) AS known_ranks
    FROM ROWS FROM (json_to_recordset(CAST(:said AS json)) AS (
        name text, hostname text, started_at timestamptz, completed_at timestamptz
    )) WITH ORDINALITY AS said (name, hostname, started_at, completed_at, place)
""")


class News:
    """Tells events that say something new from those that are repeated or superseded.

    The database ranks how much each of them says about its attempt or run, and how much of that is
    known.
    """

    def __init__(self, connection: Connection, messages: Sequence[Message]) -> None:
        """Asks the database. The messages must not have been applied yet."""
        attempts: dict[int, Attempt] = {}
        runs: dict[int, ScriptRun] = {}
        for message in messages:
            content = message.content
            if not isinstance(content, Envelope):
                continue
            if isinstance(content.event, ScriptRun):
                runs[id(content)] = content.event
            elif not isinstance(content.event, SpoolHeartbeat):
                attempts[id(content)] = attempt_of(content.time, content.event)
        self._ranks: dict[int, int] = {}
        self._known_ranks: dict[object, int] = {}
        self._rank(connection, RANK_ATTEMPTS, attempts)
        self._rank(connection, RANK_RUNS, runs)

    def learn(self, envelope: Envelope) -> bool:
        """Whether the event says something new; from now on it is known. The event must be one of
        the messages, and applied."""
        if isinstance(envelope.event, SpoolHeartbeat):
            return False
        rank, subject = self._ranks[id(envelope)], _subject(envelope.event)
        is_news = rank > self._known_ranks[subject]
        if is_news:
            self._known_ranks[subject] = rank
        return is_news

    def _rank(
        self,
        connection: Connection,
        statement: TextClause,
        said: Mapping[int, Attempt | ScriptRun],
    ) -> None:
        if not said:
            return
        document = msgspec.json.encode(list(said.values())).decode()
        ranks, known_ranks = connection.execute(statement, {"said": document}).one()
        self._ranks.update(zip(said, ranks, strict=True))
        subjects = map(_subject, said.values())
        self._known_ranks.update(zip(subjects, known_ranks, strict=True))


def _subject(said: Attempt | MirrorEvent | ScriptRun) -> object:
    """What the event is about: an attempt, or a run."""
    return said if isinstance(said, ScriptRun) else (said.branch_id, said.started_at)
