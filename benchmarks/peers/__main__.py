"""Measure mirrorfeed beside its peers: `python -m benchmarks.peers`.

Writes the measured part of `docs/benchmarks.md` and its charts, and prints it. Fails where an
event gets lost.
"""

import sys
from contextlib import closing

from benchmarks.latency import notifying
from benchmarks.load import publications
from benchmarks.peers.contest import LIMITS, delays, drain, drain_limit, wrong_rows
from benchmarks.peers.contestants import OTHERS, OURS, forget_peers
from benchmarks.peers.page import Standing, write_page
from benchmarks.report import quantile
from benchmarks.stand import Stand, open_stand

ROUNDS = 2
CONTESTANTS = [OURS, *OTHERS]


def main() -> None:
    standings = {name: Standing(name) for name in [*LIMITS, *(each.name for each in CONTESTANTS)]}
    with open_stand() as stand:
        try:
            for number in range(ROUNDS):
                _round(stand, number, standings)
        finally:
            forget_peers(stand.amqp_url)
        servers = stand.servers
    ours = standings[OURS.name]
    if any(ours.wrong_rows):
        sys.exit(f"mirrorfeed left wrong rows: {ours.wrong_rows}")
    print(write_page(list(standings.values()), ours, servers))


def _round(stand: Stand, number: int, standings: dict[str, Standing]) -> None:
    """Everybody in turn; every second round the other way round."""
    for name in LIMITS:
        _say(number, name)
        standings[name].drained.append(drain_limit(stand, name))
    for contestant in CONTESTANTS if number % 2 == 0 else reversed(CONTESTANTS):
        _say(number, contestant.name)
        standing = standings[contestant.name]
        standing.drained.append(drain(stand, contestant, publications(contestant.backlog)))
        standing.wrong_rows.append(wrong_rows(stand, contestant))
        with closing(stand.connect()) as connection, notifying(connection):
            milliseconds = delays(stand, connection, contestant)
        standing.p50_ms.append(quantile(milliseconds, 50))
        standing.p99_ms.append(quantile(milliseconds, 99))


def _say(number: int, name: str) -> None:
    sys.stderr.write(f"round {number + 1} of {ROUNDS}: {name} ...\n")


if __name__ == "__main__":
    main()
