"""The event loop of a command, and what signals do to it.

Upstream: the commands. Downstream: the entry points of replicator and worker, with a stop event.
Invariant: the first SIGTERM or SIGINT asks to stop and leaves 25 s for it; the second ends the
process with 130 within seconds, whatever hangs.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, TypeVar

import sdnotify  # type: ignore[import-untyped]
import structlog
import uvloop

from pgflo.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import FrameType

log = structlog.get_logger("pgflo.cli")

Result = TypeVar("Result")

DRAIN_LIMIT_S = 25.0
"""Less than the 30 s after which Kubernetes kills."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
CANCEL_LIMIT_S = 4.0
"""Time for clean-up after cancellation; then the process exits without it."""


class Aborted(BaseException):
    """The second signal came: end with 130."""


def run_service(service: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run until the service ends; signals set its event. Raises what it raises, or `Aborted`."""
    _watch_garbage()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_stopped(service))


def _watch_garbage() -> None:
    """Collect garbage from here on; what was imported is none and is never looked at."""
    gc.freeze()
    gc.enable()


def _log_tasks() -> None:
    """Log where every task waits: the answer to `kill -USR1` of a process that seems to stand."""
    for task in asyncio.all_tasks():
        log.warning("task", name=task.get_name(), at=" > ".join(_awaits(task.get_coro())))


def _awaits(awaited: object) -> list[str]:
    """Name the lines that wait for each other, the outermost first, by file and line."""
    lines = []
    while isinstance(awaited, CoroutineType):
        if awaited.cr_frame is not None:
            file = Path(awaited.cr_code.co_filename)
            lines.append(f"{file.parent.name}/{file.name}:{awaited.cr_frame.f_lineno}")
        awaited = awaited.cr_await
    return lines


def run_to_end(work: Coroutine[object, object, Result]) -> Result:
    """Run something short and give its result; Ctrl-C ends it at once."""
    _watch_garbage()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _until_stopped(service: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    task = asyncio.ensure_future(service(stop))
    loop.add_signal_handler(signal.SIGUSR1, _log_tasks)
    aborted = False

    def give_up(code: Exit) -> None:
        loop.call_soon_threadsafe(task.cancel)
        timer = threading.Timer(CANCEL_LIMIT_S, os._exit, (int(code),))
        timer.daemon = True
        timer.start()

    def drained_too_long() -> None:
        log.warning("not drained in time, stopping anyway", limit_s=DRAIN_LIMIT_S)
        give_up(Exit.DONE)

    def on_first(name: str) -> None:
        systemd.notify("STOPPING=1")
        log.info("stopping", signal=name, limit_s=DRAIN_LIMIT_S, again="aborts")
        stop.set()
        loop.call_later(DRAIN_LIMIT_S, drained_too_long)
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
            # Not one of the loop's: it has to work while the loop is busy with something.
            signal.signal(number, on_second)

    def on_second(_number: int, _frame: FrameType | None) -> None:
        nonlocal aborted
        if not aborted:
            aborted = True
            give_up(Exit.INTERRUPTED)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_first, number.name)
    systemd = sdnotify.SystemdNotifier()  # silent where there is no systemd
    systemd.notify("READY=1")
    try:
        await task
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    if aborted:
        raise Aborted
