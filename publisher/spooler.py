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
            self._is_busy = True
            self._gather(known=0)
        await made

    def _gather(self, known: int) -> None:
        """Hands over what waits, once a turn of the loop, from a request to its call, brings no
        more. Meanwhile those who got an answer can ask again."""
        if len(self._waiting) > known:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._gather, len(self._waiting))
        else:
            self._hand_over()

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
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            self._gather(known=0)
