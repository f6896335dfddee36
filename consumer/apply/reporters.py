"""The numbers of those who report: rows of the table `source`."""

from collections.abc import Collection, Mapping, Set

from sqlalchemy import Connection, Engine, text

REMEMBERED = 10_000
"""How many sources a worker remembers."""
REMEMBERED_LENGTH = 255
"""Longer URIs are looked up each time: nobody but a nuisance has them."""

FIND = text("SELECT uri, id FROM source WHERE uri = ANY (CAST(:uris AS text[]))")

# Waits for others that insert one of these, so always in the same order.
ADD = text("""
    INSERT INTO source (uri) SELECT uri FROM pg_catalog.unnest(CAST(:uris AS text[])) AS uri
    ORDER BY uri ON CONFLICT DO NOTHING
""")


def number_sources(connection: Connection, uris: Collection[str]) -> dict[str, int]:
    """The number of each source; a new one is added. Raises DBAPIError."""
    numbers = _find(connection, uris)
    if len(numbers) < len(uris):
        connection.execute(ADD, {"uris": [uri for uri in uris if uri not in numbers]})
        numbers = _find(connection, uris)
    return numbers


def _find(connection: Connection, uris: Collection[str]) -> dict[str, int]:
    return {row.uri: row.id for row in connection.execute(FIND, {"uris": list(uris)})}


class Reporters:
    """Remembers the numbers of the sources: a new source is rare. For one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers: dict[str, int] = {}

    def numbers(self, uris: Set[str]) -> Mapping[str, int]:
        """The number of each source. A new one is added at once, in a transaction of its own, so
        that nobody waits for what else is applied. Raises DBAPIError."""
        known = self._numbers
        if uris <= known.keys():
            return known
        if len(known) + len(uris) > REMEMBERED:
            known = {}
        with self._engine.begin() as connection:
            numbers = {**known, **number_sources(connection, uris - known.keys())}
        self._numbers = {
            uri: number for uri, number in numbers.items() if len(uri) <= REMEMBERED_LENGTH
        }
        return numbers
