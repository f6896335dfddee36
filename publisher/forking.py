"""Keeps out of a forked child what it must not inherit.

An SQLite connection must not be carried across a fork, not even to be closed in the child
(https://sqlite.org/howtocorrupt.html, section 2.6). So whatever is open is closed before the fork,
and nothing is opened until the fork is over.
"""

import os
import threading
from typing import Protocol
from weakref import WeakSet

fork_lock = threading.RLock()
"""Held while opening something that a forked child must not inherit unnoticed."""


class Closable(Protocol):
    """Something that reopens itself the next time it is used."""

    @property
    def lock(self) -> threading.RLock:
        """Held while it is used. Code that needs both takes this one before `fork_lock`."""

    def disconnect(self) -> None:
        """Closes it. The caller holds `lock`."""


_tracked: WeakSet[Closable] = WeakSet()
_closed: list[Closable] = []


def close_before_fork(closable: Closable) -> None:
    """Closes it before every fork from now on. The caller holds `fork_lock`."""
    _tracked.add(closable)


def _before_fork() -> None:
    while True:
        with fork_lock:
            closables = sorted(_tracked, key=id)
        for closable in closables:
            closable.lock.acquire()
        fork_lock.acquire()
        if set(_tracked) <= set(closables):
            break
        fork_lock.release()
        for closable in closables:
            closable.lock.release()
    for closable in closables:
        closable.disconnect()
    _closed.extend(closables)


def _after_fork() -> None:
    for closable in _closed:
        closable.lock.release()
    _closed.clear()
    fork_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
