"""How tests ask a service how it is."""

import http.client
from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

PATIENCE_SECONDS = 10.0


class Said(NamedTuple):
    """An answer over HTTP."""

    status: int
    text: str
    content_type: str | None


def ask(
    port: int, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> Said:
    """Raises OSError or HTTPException if there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return Said(answer.status, answer.read().decode(), answer.getheader("Content-Type"))
    finally:
        connection.close()


def says(port: int, path: str) -> int | None:
    """The status of the answer; None if there is none yet."""
    try:
        return ask(port, path).status
    except (OSError, http.client.HTTPException):
        return None


def samples(text: str, prefix: str = "") -> dict[tuple[str, ...], float]:
    """Each value of a scrape by its name without the prefix, and its labels' values in the order
    of their names."""
    return {
        (
            sample.name.removeprefix(prefix),
            *(sample.labels[each] for each in sorted(sample.labels)),
        ): (sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
