"""A worker in which one thing stops at a message, while all else goes on:
`python -m tests.frozen_worker applier|io|deaf|closing`.

applier: the applier thread hangs. io: the I/O thread hangs. deaf: the connection is lost, and on
the next one the broker is never asked for messages. closing: the connection is to be closed, which
the broker does not confirm.
"""

import sys
import threading
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from pika.channel import Channel
from pika.exceptions import StreamLostError

from mirrorfeed.amqp import session
from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.commands.main import main
from mirrorfeed.consumer.worker import service
from mirrorfeed.consumer.worker.session import ConsumingSession

FREEZING = "freezing"


class FreezingApplier(Applier):
    def apply(self, messages: Sequence[Any], *arguments: Any) -> Any:
        if any(FREEZING.encode() in message.body for message in messages):
            threading.Event().wait()
        return super().apply(messages, *arguments)


class FreezingSession(ConsumingSession):
    def _read(self, body: bytes, *arguments: Any, **options: Any) -> Any:
        if FREEZING.encode() in body:
            threading.Event().wait()
        return super()._read(body, *arguments, **options)


class DeafSession(ConsumingSession):
    def _read(self, body: bytes, *arguments: Any, **options: Any) -> Any:
        if FREEZING.encode() in body:
            patch.object(Channel, "basic_consume").start()
            self.fail(StreamLostError("lost"))
        return super()._read(body, *arguments, **options)


class ClosingSession(ConsumingSession):
    def _read(self, body: bytes, *arguments: Any, **options: Any) -> Any:
        if FREEZING.encode() in body:
            patch.object(session, "CLOSE_SECONDS", 1.0).start()
            self.fail(StreamLostError("lost"))
        return super()._read(body, *arguments, **options)

    def _close(self) -> None:
        """As if it was never heard."""


if __name__ == "__main__":
    (what,) = sys.argv[1:]
    sys.argv = ["mirror-consumer", "run"]
    stopping: dict[str, tuple[str, Any]] = {
        "applier": ("Applier", FreezingApplier),
        "io": ("ConsumingSession", FreezingSession),
        "deaf": ("ConsumingSession", DeafSession),
        "closing": ("ConsumingSession", ClosingSession),
    }
    with patch.object(service, *stopping[what]):
        main()
