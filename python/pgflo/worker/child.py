"""A child process of the worker and the pipe to it.

Upstream: `dispatcher` and `copy_lanes` start one and send to it. Downstream: `writer.main`,
`copy_writer.main`.
Invariant: a child that ends unasked makes `failure` known, with its own last word if it had one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pgflo import errors, logs
from pgflo.errors import PgfloError
from pgflo.supervisor import processes
from pgflo.worker.messages import Failed, Message, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

SMALL_BYTES = 32 * 1024
"""So much goes into an empty pipe without waiting (the kernel's buffer holds about 200 KiB)."""

END_WAIT_S = 10.0
"""After its pipe is closed a child needs as long as closing a connection takes."""


EXIT_WAIT_S = 1.0
"""Between the end of its pipe and its exit code lies only the end of the interpreter."""


class Child:
    """A running child process. Made by `start`; `close` ends it."""

    def __init__(self, process: BaseProcess, pipe: Connection, name: str) -> None:
        self._process = process
        self._pipe = pipe
        self._name = name
        self._sender = ThreadPoolExecutor(1, thread_name_prefix=f"pipe {name}")
        self._sending = 0
        self._on_message: Callable[[Any], None] = lambda _: None
        self.failure: asyncio.Future[PgfloError] = asyncio.get_running_loop().create_future()
        """Set when the child ended unasked."""
        self.was_killed = False
        """Whether a signal ended it, so that another one may do better."""

    @classmethod
    async def start(
        cls,
        name: str,
        entry: Callable[..., None],
        *arguments: object,
        on_message: Callable[[Any], None],
    ) -> Child:
        """Start `entry(pipe, log settings, *arguments)`; `on_message` gets what it says."""

        def begin() -> tuple[BaseProcess, Connection]:
            # The first start waits until the fork server has imported what all children need.
            context = processes.context()
            ours, theirs = context.Pipe(duplex=True)
            process = context.Process(
                target=entry, args=(theirs, logs.child_payload(), *arguments), name=name
            )
            process.start()
            theirs.close()
            return process, ours

        process, pipe = await asyncio.to_thread(begin)
        self = cls(process, pipe, name)
        self._on_message = on_message
        asyncio.get_running_loop().add_reader(pipe.fileno(), self._readable)
        # uvloop makes what it watches non-blocking; whole messages go in and out of this one.
        os.set_blocking(pipe.fileno(), True)
        return self

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    async def send(self, frames: Sequence[bytes], *, is_waiting: bool) -> None:
        """Send frames; `is_waiting`: it has read everything before, so small ones go at once.

        A child that is gone is not told here: `failure` says so.
        """
        if is_waiting and sum(map(len, frames)) <= SMALL_BYTES:
            self._send(frames)
        else:
            loop = asyncio.get_running_loop()
            sent = loop.run_in_executor(self._sender, self._send, frames)
            self._sending += 1
            # Not when this call ends: it may be cancelled while the thread still sends.
            sent.add_done_callback(self._sent)
            await asyncio.shield(sent)

    async def close(self, *, at_once: bool) -> None:
        """End it: by closing its pipe, or by SIGKILL (`at_once`, and after 10 s)."""
        if self._pipe.closed:
            return
        asyncio.get_running_loop().remove_reader(self._pipe.fileno())
        if at_once or self._sending:
            # A send that waits for a stopped child ends when that child is killed.
            self._kill()
        await asyncio.shield(asyncio.to_thread(self._end))

    def _end(self) -> None:
        self._sender.shutdown(cancel_futures=True)
        self._pipe.close()
        self._process.join(END_WAIT_S)
        if self._process.is_alive():
            self._kill()
        self._process.join()
        self._process.close()

    def _kill(self) -> None:
        if self._process.pid is not None and self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def _sent(self, _future: asyncio.Future[None]) -> None:
        self._sending -= 1

    def _send(self, frames: Sequence[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for frame in frames:
                self._pipe.send_bytes(frame)

    def _readable(self) -> None:
        try:
            while self._pipe.poll(0):
                message: Message = decode(self._pipe.recv_bytes())
                if isinstance(message, Failed):
                    self._fail(message.error())
                else:
                    self._on_message(message)
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            self._process.join(EXIT_WAIT_S)
            self._fail(self._died())

    def _fail(self, error: PgfloError) -> None:
        if not self.failure.done():
            self.failure.set_result(error)

    def _died(self) -> PgfloError:
        code = self._process.exitcode
        if code is not None and code >= 0:
            return PgfloError(
                errors.SINK_CRASHED, f"the {self._name} process ended with exit code {code}"
            )
        self.was_killed = code is not None
        how = "does not end" if code is None else f"was killed by signal {-code}"
        return PgfloError(
            errors.SINK_INTERRUPTED,
            f"the {self._name} process {how}",
            hint="It is started again. If that goes on: `dmesg` tells what the kernel killed.",
        )
