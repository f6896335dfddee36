"""A worker that a message kills: `python -m tests.deadly_worker decode|apply`.

It is killed by a real SIGKILL, as by a crash in a C library or for want of memory, when it decodes
or applies a body that holds DEADLY.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

from mirrorfeed.consumer.apply.applier import Applier
from mirrorfeed.consumer.commands.main import main
from mirrorfeed.contract.events import Envelope
from mirrorfeed.contract.wire import decode

DEADLY = "deadly"


def die_of(body: bytes) -> None:
    if DEADLY.encode() in body:
        os.kill(os.getpid(), signal.SIGKILL)


def decode_or_die(body: bytes) -> Any:
    die_of(body)
    return decode(body)


class DeadlyApplier(Applier):
    def _commit(self, messages: Sequence[Any], *also: Any, **how: Any) -> Any:
        for message in messages:
            if isinstance(message.content, Envelope):  # not what is only buried
                die_of(message.body)
        return super()._commit(messages, *also, **how)


DEADLY_PARTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "decode": ("mirrorfeed.consumer.apply.message.decode", decode_or_die),
    "apply": ("mirrorfeed.consumer.worker.service.Applier", DeadlyApplier),
}


if __name__ == "__main__":
    (where,) = sys.argv[1:]
    sys.argv = ["mirror-consumer", "run", "--drain"]
    with patch(*DEADLY_PARTS[where]):
        main()
