"""The numbers of those who report: rows of the table `source`."""

from collections.abc import Collection, Mapping, Set

from sqlalchemy import Connection, text

REMEMBERED = 10_000
"""How many sources a session remembers."""
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


def remembered_numbers(connection: Connection, uris: Set[str]) -> Mapping[str, int]:
    """The number of each source, on a connection that is in no transaction. A new one is added at
    once, in a transaction of its own, so that nobody waits for what else is applied.

    A new source is rare, so the session remembers them. The next session may be with a server that
    has taken over, or was restored from a backup, and gives other numbers. Raises DBAPIError.
    """
    known: Mapping[str, int] = connection.info.get("source_numbers", {})
    if uris <= known.keys():
        return known
    if len(known) + len(uris) > REMEMBERED:
        known = {}
    numbers = {**known, **number_sources(connection, uris - known.keys())}
    connection.commit()
    connection.info["source_numbers"] = {
        uri: number for uri, number in numbers.items() if len(uri) <= REMEMBERED_LENGTH
    }
    return numbers
