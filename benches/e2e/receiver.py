"""A receiver of webhooks that does as little as one can: keeps each body, answers 200.

Upstream: the webhook sink. Downstream: `sinks.py`, which reads the bodies afterwards.
Invariant: a request is answered once its body is in the file; bodies follow each other, each with a
line feed behind it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import BinaryIO, cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length:"


class Connection(asyncio.Protocol):
    """One connection. Knows as much of HTTP as the sink speaks: POSTs with a length."""

    def __init__(self, bodies: BinaryIO) -> None:
        self._bodies = bodies
        self._transport: asyncio.WriteTransport | None = None
        self._held = bytearray()
        self._wanted_bytes = -1
        """Of the body that is being read; -1: a head comes next."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's are no subclass.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what came, and answer each request that is whole."""
        self._held += data
        while self._has_head() and len(self._held) >= self._wanted_bytes:
            self._bodies.write(self._held[: self._wanted_bytes])
            self._bodies.write(b"\n")
            del self._held[: self._wanted_bytes]
            self._wanted_bytes = -1
            if self._transport is not None:
                self._transport.write(ANSWER)

    def _has_head(self) -> bool:
        if self._wanted_bytes < 0:
            end = self._held.find(HEAD_END)
            if end < 0:
                return False
            head = bytes(self._held[:end]).lower()
            at = head.index(LENGTH) + len(LENGTH)
            self._wanted_bytes = int(head[at:].partition(b"\r\n")[0])
            del self._held[: end + len(HEAD_END)]
        return True


async def main(path: Path) -> None:
    """Serve on a free port, which is printed, until SIGTERM."""
    with path.open("wb", buffering=1024 * 1024) as bodies:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(bodies), "127.0.0.1", 0)
        done = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, done.set)
        print(server.sockets[0].getsockname()[1], flush=True)
        await done.wait()
        server.close()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
