"""Many callers, one spool: calls that arrive together share a commit, and one wait for the disk.

The event loop's own thread commits. Every caller waits for the disk anyway, and waking a second
thread of the same interpreter, and being woken by it, takes longer than a commit.
"""

import asyncio

from mirrorfeed.publisher.authserver.calls import Call
from mirrorfeed.publisher.client import BranchStatusClient
from mirrorfeed.publisher.errors import SpoolBusy

RETRY_SECONDS = 0.001
"""How soon to retry if another process, or the forwarder, is writing to the spool."""
BUSY_TIMEOUT_SECONDS = 30.0
"""How long to retry, counted from the first refusal. Then all waiting calls are refused."""

Batch = list[tuple[Call, asyncio.Future[None]]]


class GroupCommit:
    """Where calls wait to be made. Use it only in the event loop's thread."""

    def __init__(self, client: BranchStatusClient) -> None:
        self._client = client
        self._waiting: Batch = []
        self._busy_since: float | None = None

    async def make(self, call: Call) -> None:
        """Returns once the call is made and durable, or has an error."""
        made = asyncio.get_running_loop().create_future()
        is_first = not self._waiting
        self._waiting.append((call, made))
        if is_first:
            self._gather(known=0)
        await made

    def _gather(self, known: int) -> None:
        """Commits once a turn of the loop, the time it takes a request to become a call, brings no
        more calls. Clients that just got an answer can send their next call meanwhile."""
        if len(self._waiting) > known:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._gather, len(self._waiting))
        else:
            self._commit()

    def _commit(self) -> None:
        try:
            # A locked spool must not delay requests that do not need it.
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
            if not made.done():  # a server shutting down gives up on requests that wait too long
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
