"""Many callers, one spool: calls that come while a commit waits for the disk share the next one.

A thread of its own makes them, so that a slow disk or a locked spool keeps nobody waiting who does
not need it.
"""

import asyncio
import threading
from queue import SimpleQueue

from publisher.client import BranchStatusClient
from publisher.xmlrpc_calls import Call

HOLD_STILL_SECONDS = 0.02
"""Two threads that both run get in each other's way, for one interpreter runs only one at a time:
the server waits for a commit, unless that takes unusually long."""

Batch = list[tuple[Call, asyncio.Future[None]]]


class Spooler:
    """Where calls wait to be made. Its methods are for the thread of the event loop."""

    def __init__(self, client: BranchStatusClient) -> None:
        self._client = client
        self._waiting: Batch = []
        self._is_busy = False
        self._is_made = threading.Event()
        self._batches: SimpleQueue[Batch] = SimpleQueue()
        # A daemon, for a spool that somebody locked must not keep the server from ending.
        threading.Thread(target=self._run, name="mirrorfeed spooler", daemon=True).start()

    async def make(self, call: Call) -> None:
        """Returns when the call is made and what it did is durable, or else it has an error."""
        made = asyncio.get_running_loop().create_future()
        self._waiting.append((call, made))
        if not self._is_busy:
            self._hand_over_soon()
        await made

    def _hand_over_soon(self) -> None:
        """After one more turn of the loop: what is ready to be read comes along, and what was made
        is answered first."""
        self._is_busy = True
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._hand_over)

    def _hand_over(self) -> None:
        batch, self._waiting = self._waiting, []
        self._is_made.clear()
        self._batches.put(batch)
        self._is_made.wait(HOLD_STILL_SECONDS)

    def _run(self) -> None:
        while True:
            batch = self._batches.get()
            try:
                with self._client.one_commit():
                    for call, _ in batch:
                        call.make()
                    self._is_made.set()
            except Exception as error:  # nothing was taken
                for call, _ in batch:
                    call.error = call.error or error
            self._is_made.set()
            batch[0][1].get_loop().call_soon_threadsafe(self._settle, batch)

    def _settle(self, batch: Batch) -> None:
        for _, made in batch:
            if not made.done():  # a server that ends gives up who waits too long
                made.set_result(None)
        self._is_busy = False
        if self._waiting:
            self._hand_over_soon()
