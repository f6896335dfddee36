"""`python -m tests.faults.campaign`: a round of faults from a seed, and its outcome."""

import argparse
import sys

from tests.faults.campaign.command import exit_code_of, log_to_standard_error, seed_or_random
from tests.faults.campaign.round import Plan, Tally, run_round
from tests.faults.campaign.schedule import PULLERS, WORKERS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__)
    parser.add_argument(
        "--seed", type=int, help="the same seed gives the same round; by default a random one"
    )
    parser.add_argument("--events", type=int, default=40_000, help="how many the pullers report")
    parser.add_argument("--faults", type=int, default=40, help="how many occur meanwhile")
    parser.add_argument("--cluster", action="store_true", help="use three broker nodes")
    given = parser.parse_args()
    log_to_standard_error()
    seed = seed_or_random(given.seed)
    plan = Plan(seed, given.events, given.faults, given.cluster)
    print(f"seed {seed}: {plan.command}", flush=True)
    return exit_code_of(lambda: run(plan))


def run(plan: Plan) -> int:
    print_tally(run_round(plan))
    return 0


def print_tally(tally: Tally) -> None:
    rows: list[tuple[str, object]] = [
        ("events", f"{tally.events:,} of {PULLERS} pullers, applied by {WORKERS} workers"),
        ("faults", tally.faults.total()),
        *((f"  {kind}", count) for kind, count in tally.faults.most_common()),
        *((f"  {kind}", f"skipped: {why}") for kind, why in tally.skipped.items()),
        ("calls refused by a full disk", tally.refused_calls),
        ("sessions begun by workers", tally.worker_sessions),
        ("connections made by pullers", tally.puller_connections),
        ("branch states seen by a reader", f"{tally.states_seen:,}"),
        ("  of which out of sequence", tally.states_out_of_sequence),
        ("longest stall", f"{tally.longest_stall_seconds:.1f} s"),
        *((f"memory, {who}", f"{most:.0f} MB") for who, most in tally.most_megabytes.items()),
        ("drained after the last event", f"{tally.drain_seconds:.1f} s"),
        ("in total", f"{tally.seconds:.0f} s"),
    ]
    for name, value in rows:
        print(f"{name:38}{value}")
    print("everything that was reported is in the tables, and nothing else")


if __name__ == "__main__":
    sys.exit(main())
