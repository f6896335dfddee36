"""How a service waits to be told to end, without looking for it again and again."""

import signal
import threading
from collections.abc import Collection


def ended_by(signals: Collection[signal.Signals]) -> threading.Event:
    """An event that is set once one of the signals comes; whoever has another reason to end the
    service may set it, too.

    The signals are blocked in this thread and in all that it starts from now on, so that none
    interrupts a lock. So call it in the main thread, before there are others.
    """
    told = threading.Event()

    def wait() -> None:
        # Unlike sigtimedwait, as Python 3.11 has it, it does not take a SIGCONT for one of them.
        signal.sigwait(signals)
        told.set()

    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.Thread(target=wait, name="signals", daemon=True).start()
    return told
