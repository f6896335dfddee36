"""A worker whose applier thread stops at a message, while its others go on:
`python -m tests.frozen_worker`."""

import sys
import threading
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from mirrorfeed.consumer.apply.batch import Applier
from mirrorfeed.consumer.commands.main import main

FREEZING = "freezing"


class FreezingApplier(Applier):
    def apply(self, messages: Sequence[Any], *arguments: Any) -> Any:
        if any(FREEZING.encode() in message.body for message in messages):
            threading.Event().wait()
        return super().apply(messages, *arguments)


if __name__ == "__main__":
    sys.argv = ["mirror-consumer", "run"]
    with patch("mirrorfeed.consumer.worker.service.Applier", FreezingApplier):
        main()
