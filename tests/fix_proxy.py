"""A TCP proxy between a client and a server, with the faults of a network on demand.

Neighbours: any client of PostgreSQL or NATS in a test, and its server. It runs in a thread with an
event loop of its own; the test calls its controls from outside, and each control has taken effect
when it returns. Invariant: bytes are delivered in order and unchanged, or the connection is reset
on both sides: never a gap in the middle of a connection that goes on.

A control that loses something tells when it did:

    lost = proxy.drop_responses_matching(lambda data: b"COMMIT" in data)
    …the client commits…
    assert lost.wait(10)   # the server has committed, the client will never hear of it
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import TracebackType

    Predicate = Callable[[bytes], bool]

READ_BYTES = 65536
QUEUED_BLOCKS = 64
"""Blocks in flight per direction (4 MiB): beyond that the proxy stops reading, as networks do."""
CONTROL_TIMEOUT_S = 30.0
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST instead of FIN."""


class Direction:
    """What happens to bytes that go one way, on all connections."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.predicate: Predicate | None = None
        self.lost = threading.Event()


class Link:
    """One connection through the proxy: two sockets, two directions."""

    def __init__(self, proxy: TcpProxy, client: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = [client]

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Carry bytes both ways until both sides have ended or one is reset."""
        client = self._writers[0]
        try:
            from_server, server = await asyncio.open_connection(*self._proxy.target)
        except OSError:
            self.reset()
            return
        self._writers.append(server)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry(reader, server, self._proxy.requests))
                tasks.create_task(self._carry(from_server, client, self._proxy.responses))
        except* (OSError, CutError):
            self.reset()
        finally:
            for writer in self._writers:
                writer.close()

    def reset(self) -> None:
        """Close both sockets with RST."""
        for writer in self._writers:
            raw = writer.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):  # the other side was faster
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_BLOCKS)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(reader, queue, way))
            tasks.create_task(self._write(queue, writer, way))

    async def _read(
        self,
        reader: asyncio.StreamReader,
        queue: asyncio.Queue[tuple[float, bytes]],
        way: Direction,
    ) -> None:
        while True:
            block = await reader.read(READ_BYTES)
            if block and way.predicate is not None and way.predicate(block):
                way.predicate = None
                way.lost.set()
                raise CutError
            await queue.put((time.monotonic() + self._proxy.delay_ms / 1000, block))
            if not block:
                return

    async def _write(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        way: Direction,
    ) -> None:
        while True:
            due, block = await queue.get()
            await way.open.wait()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not block:
                writer.write_eof()
                return
            writer.write(block)
            await writer.drain()


class CutError(Exception):
    """A predicate matched: this connection ends here."""


class TcpProxy:
    """A listening port on loopback whose connections go on to a server. A context manager."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.port = 0
        self.delay_ms = 0.0
        """Added to each block's way, in either direction; may be set at any time."""
        self.requests = Direction()
        self.responses = Direction()
        self._refusing = False
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tcp-proxy", daemon=True
        )
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many connections go through it now."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection on both sides; new ones are served. What was in flight is lost."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Reset every connection, and each new one at once, until `resume`."""
        self._refusing = True
        self.cut()

    def hold_responses(self) -> None:
        """Keep what the server says from the client until `resume`; a `cut` meanwhile loses it."""
        self._do(self._set(self.responses, is_open=False))

    def hold_requests(self) -> None:
        """Keep what the client says from the server until `resume`; a `cut` meanwhile loses it."""
        self._do(self._set(self.requests, is_open=False))

    def drop_responses_matching(self, predicate: Predicate) -> threading.Event:
        """Swallow the first block from the server that matches, and reset that connection.

        A block is what one read returned: a short answer is whole in it. The predicate runs in the
        proxy's thread, and is forgotten after its first match. The event is set when that happened.
        """
        return self._arm(self.responses, predicate)

    def drop_requests_matching(self, predicate: Predicate) -> threading.Event:
        """Swallow the first block from the client that matches: the server never gets to see it."""
        return self._arm(self.requests, predicate)

    def resume(self) -> None:
        """End every fault: deliver what is held, in order, without delay; accept again."""
        self.delay_ms = 0.0
        self._refusing = False
        for way in (self.requests, self.responses):
            way.predicate = None
            self._do(self._set(way, is_open=True))

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONTROL_TIMEOUT_S)
        self._loop.close()

    def _do(self, work: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CONTROL_TIMEOUT_S)

    def _arm(self, way: Direction, predicate: Predicate) -> threading.Event:
        way.lost = threading.Event()
        way.predicate = predicate
        return way.lost

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, writer)
        if self._refusing:
            link.reset()
            return
        task = asyncio.current_task()
        assert task is not None
        self._links[link] = task
        try:
            await link.run(reader)
        finally:
            del self._links[link]

    async def _cut(self) -> None:
        tasks = list(self._links.values())
        for link, task in list(self._links.items()):
            link.reset()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _set(self, way: Direction, *, is_open: bool) -> None:
        if is_open:
            way.open.set()
        else:
            way.open.clear()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut()


class ProxyFactory(Protocol):
    """What `tcp_proxy` is."""

    def __call__(self, target_host: str, target_port: int) -> TcpProxy:
        """Start a proxy in front of a server."""
        ...


@pytest.fixture
def tcp_proxy() -> Iterator[ProxyFactory]:
    """Start proxies that end with the test."""
    with ExitStack() as stack:

        def start(target_host: str, target_port: int) -> TcpProxy:
            return stack.enter_context(TcpProxy(target_host, target_port))

        yield start
