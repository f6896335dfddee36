"""`mirror-consumer` without its ledger: `python -m benchmarks.unledgered_worker …`."""

from unittest.mock import patch

from mirrorfeed.consumer.commands.main import main

if __name__ == "__main__":
    with (
        patch("mirrorfeed.consumer.apply.applier.arrivals_of", lambda messages: {}),
        patch("mirrorfeed.consumer.worker.service.fold", lambda engine, until: False),
    ):
        main()
