"""A TCP proxy on loopback whose connections can be cut, delayed or swallowed."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from sandbox.ports import LOOPBACK

CHUNK_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


class Proxy:
    """Passes on what comes to `port`. It runs in a thread of its own."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._open: set[asyncio.StreamWriter] = set()
        self._delay_seconds = 0.0
        self._is_refusing = False
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="proxy")
        self._running = self._threads.submit(self._loop.run_forever)
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, LOOPBACK, 0), self._loop
        ).result()
        self.port = int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Resets every connection, and each that comes until `heal`."""
        self._in_loop(self._cut)

    def delay(self, seconds: float) -> None:
        """Every piece that arrives is held for so long, in both directions, until `heal`."""
        self._delay_seconds = seconds

    def swallow(self) -> None:
        """Nothing passes any more, and nobody is told; after `heal` it comes late."""
        self._in_loop(self._flows.clear)

    def heal(self) -> None:
        """Passes everything on again."""
        self._in_loop(self._heal)

    def close(self) -> None:
        """Ends every connection, and the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads.shutdown()
        self._loop.close()
        self._running.result()

    def _in_loop(self, action: Callable[[], object]) -> None:
        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result()

    def _cut(self) -> None:
        self._is_refusing = True
        for writer in self._open:
            writer.transport.abort()

    def _heal(self) -> None:
        self._is_refusing = False
        self._delay_seconds = 0.0
        self._flows.set()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            if self._is_refusing:
                return
            answers, upstream = await asyncio.open_connection(LOOPBACK, self._upstream_port)
            self._open.add(upstream)
            ends = {
                asyncio.create_task(self._pump(reader, upstream)),
                asyncio.create_task(self._pump(answers, writer)),
            }
            _, others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                other.cancel()
        except OSError as error:
            logger.info("no way from port %d: %s", self.port, error)
        finally:
            for each in filter(None, (writer, upstream)):
                self._open.discard(each)
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flows.wait()
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                writer.write(data)
                await writer.drain()
