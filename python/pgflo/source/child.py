"""A child process and the pipe to it, as an event loop sees them.

Upstream: the snapshot's holder, the copy's processes. Downstream: the forkserver they come from.
Invariant: a child that ends, however it ends, shows as `None` among its reports; `stop` returns
when it is gone. Messages are small: rows never pass through here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.supervisor.processes import context

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger("pgflo.source")

STOP_S = 5.0
"""Seconds for a child to end by itself after its pipe is closed; then it is killed."""

START_ATTEMPTS = 3
"""The forkserver may be killed like any other process; the next attempt starts another."""

Report = TypeVar("Report")


class Child(Generic[Report]):
    """A running child. `target` gets its end of the pipe, then `args`."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> None:
        self._pipe, theirs = context().Pipe()
        self._process = _start(target, (theirs, *args), name)
        theirs.close()
        self.reports: asyncio.Queue[Report | None] = asyncio.Queue()
        """What the child sent; `None` once, when it has ended."""
        self._fileno = self._pipe.fileno()
        asyncio.get_running_loop().add_reader(self._fileno, self._read)

    def send(self, message: object) -> None:
        """Send a message. Raises OSError when the child has ended."""
        self._pipe.send(message)

    async def stop(self, *, kill: bool = False) -> None:
        """End the child: by closing the pipe, which asks it to, or at once with `kill`."""
        self._close()
        if kill:
            self._process.kill()
        await asyncio.to_thread(self._process.join, STOP_S)
        if self._process.is_alive():
            self._process.kill()
            await asyncio.to_thread(self._process.join)

    def _read(self) -> None:
        try:
            report: Report = self._pipe.recv()
        except (EOFError, OSError):
            self._close()
            self.reports.put_nowait(None)
            return
        self.reports.put_nowait(report)

    def _close(self) -> None:
        if not self._pipe.closed:
            asyncio.get_running_loop().remove_reader(self._fileno)
            self._pipe.close()


def _start(target: Callable[..., None], args: tuple[Any, ...], name: str) -> Any:  # noqa: ANN401
    for attempt in range(1, START_ATTEMPTS + 1):
        process = context().Process(target=target, args=args, name=name, daemon=True)
        try:
            process.start()
        except (EOFError, OSError) as error:
            log.warning("a child process did not start", child=name, attempt=attempt)
            problem = error
        else:
            return process
    raise PgfloError(errors.COPY_BROKEN, f"cannot start process {name!r}: {problem!r}")
