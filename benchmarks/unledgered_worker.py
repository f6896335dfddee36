"""`mirror-consumer` without its ledger: `python -m benchmarks.unledgered_worker …`."""

from unittest.mock import patch

from consumer import cli

if __name__ == "__main__":
    with (
        patch("consumer.applier.arrivals_of", lambda messages: None),
        patch("consumer.worker.fold", lambda engine: False),
    ):
        cli.main()
