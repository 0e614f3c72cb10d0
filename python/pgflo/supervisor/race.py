"""Runs things that belong together: the first that ends decides, the others are ended with it.

Upstream: the main loops of replicator and worker, and their parts. Downstream: asyncio.
Invariant: when one of these functions returns or raises, nothing it started is running any more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


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
