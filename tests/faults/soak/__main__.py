"""`python -m tests.faults.soak`: everything runs for an hour, and must not grow."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.pages import check_can_draw
from tests.faults.campaign.command import exit_code_of, log_to_standard_error, seed_or_random
from tests.faults.campaign.schedule import PULLERS, WORKERS
from tests.faults.soak.life import Outcome, Plan, run_soak
from tests.faults.soak.picture import draw


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument(
        "--seed", type=int, help="the same seed gives the same soak; by default a random one"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument(
        "--events-a-second", type=float, default=20.0, help="of all pullers (default: 20)"
    )
    parser.add_argument(
        "--seconds-a-fault", type=float, default=40.0, help="between two faults (default: 40)"
    )
    parser.add_argument("--cluster", action="store_true", help="use three broker nodes")
    parser.add_argument(
        "--into",
        type=Path,
        default=Path("build/soak"),
        help="the folder of samples.json and samples.svg (default: build/soak)",
    )
    given = parser.parse_args()
    check_can_draw()
    log_to_standard_error()
    seed = seed_or_random(given.seed)
    plan = Plan(seed, given.minutes, given.events_a_second, given.seconds_a_fault, given.cluster)
    print(f"seed {seed}: {plan.command}", flush=True)
    return exit_code_of(lambda: run(plan, given.into))


def run(plan: Plan, into: Path) -> int:
    outcome = run_soak(plan, into)
    picture = into / "samples.svg"
    draw(json.loads((into / "samples.json").read_text()), picture)
    print_outcome(outcome)
    print(f"the picture: {picture}")
    return 1 if outcome.grown else 0


def print_outcome(outcome: Outcome) -> None:
    rows: list[tuple[str, object]] = [
        ("events", f"{outcome.events:,} of {PULLERS + 1} spools, applied by {WORKERS} workers"),
        *((f"  {kind}", count) for kind, count in outcome.happened.most_common()),
        ("commands typed, pages looked at", f"{outcome.commands:,}, {outcome.looks:,}"),
        ("sessions begun by workers", outcome.worker_sessions),
        ("branch states seen by a reader", f"{outcome.states_seen:,}"),
        ("longest stall", f"{outcome.longest_stall_seconds:.1f} s"),
        *((f"memory, {who}", f"{most:.0f} MB") for who, most in outcome.most_megabytes.items()),
        ("drained after the last event", f"{outcome.drain_seconds:.1f} s"),
        ("in total", f"{outcome.seconds:.0f} s"),
        ("series judged", len(outcome.judgements)),
        ("  of which not flat", len(outcome.grown)),
    ]
    for name, value in rows:
        print(f"{name:45}{value}")
    print("everything that was reported is in the tables, and nothing else")
    for judgement in outcome.grown:
        print(f"NOT FLAT: {judgement}")


if __name__ == "__main__":
    sys.exit(main())
