"""Many callers, one spool: calls that come together share a commit, and so wait for the disk once.

The thread of the event loop makes them. Whoever reports needs the disk, and a second thread of the
same interpreter takes longer to be woken up, and to wake up this one, than a commit takes.
"""

import asyncio

from mirrorfeed.publisher.authserver.calls import Call
from mirrorfeed.publisher.client import BranchStatusClient
from mirrorfeed.publisher.errors import SpoolBusy

RETRY_SECONDS = 0.001
"""How soon to ask again for a spool that another process, or the forwarder, writes to."""
BUSY_TIMEOUT_SECONDS = 30.0
"""How long to ask, from the first call that found it locked. All who wait by then are refused."""

Batch = list[tuple[Call, asyncio.Future[None]]]


class GroupCommit:
    """Where calls wait to be made. Its methods are for the thread of the event loop."""

    def __init__(self, client: BranchStatusClient) -> None:
        self._client = client
        self._waiting: Batch = []
        self._busy_since: float | None = None

    async def make(self, call: Call) -> None:
        """Returns when the call is made and what it did is durable, or else it has an error."""
        made = asyncio.get_running_loop().create_future()
        is_first = not self._waiting
        self._waiting.append((call, made))
        if is_first:
            self._gather(known=0)
        await made

    def _gather(self, known: int) -> None:
        """Makes what waits, once a turn of the loop, from a request to its call, brings no more.
        Meanwhile those who got an answer can ask again."""
        if len(self._waiting) > known:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._gather, len(self._waiting))
        else:
            self._commit()

    def _commit(self) -> None:
        try:
            # A locked spool keeps nobody waiting who does not need it.
            with self._client.group_commit(timeout_seconds=0):
                for call, _ in self._waiting:
                    call.make()
        except SpoolBusy as error:
            if self._is_to_ask_again():
                return
            self._refuse(error)
        except Exception as error:
            self._refuse(error)
        batch, self._waiting = self._waiting, []
        self._busy_since = None
        for _, made in batch:
            if not made.done():  # a server that ends gives up who waits too long
                made.set_result(None)

    def _is_to_ask_again(self) -> bool:
        loop = asyncio.get_running_loop()
        self._busy_since = self._busy_since or loop.time()
        if loop.time() >= self._busy_since + BUSY_TIMEOUT_SECONDS:
            return False
        loop.call_later(RETRY_SECONDS, self._commit)
        return True

    def _refuse(self, error: Exception) -> None:
        """Nothing was taken."""
        for call, _ in self._waiting:
            call.error = call.error or error
