"""Runs things that belong together: the first that ends decides, the others are ended with it.

Upstream: the main loops of replicator and worker, and their parts. Downstream: asyncio.
Invariant: when one of these functions returns or raises, nothing it started is running any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


async def first_of(*works: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever the first gives
    """Run all at once; give or raise what the first to end does, and cancel the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def all_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Run all to their end; the first failure cancels the others and is raised as it is."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def undivided(work: Callable[[], T], drop: Callable[[T], object] | None = None) -> T:
    """Run in a thread; when cancelled, wait for the thread: it must not go on beside what is next.

    `drop` gets a result that nobody waits for any more. An error then is that of a given-up work.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # Whoever ends several things at once may cancel this more than once.
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled() and running.exception() is None and drop is not None:
            drop(running.result())
        raise
