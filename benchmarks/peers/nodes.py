"""A consumer of several processes."""

import signal
from collections.abc import Callable, Iterable
from multiprocessing import Process
from typing import Any


def run_each(
    target: Callable[[Any], object],
    arguments: Iterable[Any],
    end: Callable[[Process], None] = Process.terminate,
) -> None:
    """Runs `target` with each of the arguments in a process of its own; SIGTERM ends them all."""
    nodes = [Process(target=target, args=[argument]) for argument in arguments]
    for node in nodes:
        node.start()

    def end_all(*_: object) -> None:
        for node in nodes:
            end(node)

    signal.signal(signal.SIGTERM, end_all)
    for node in nodes:
        node.join()
