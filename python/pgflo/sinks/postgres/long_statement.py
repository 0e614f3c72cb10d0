"""Statements that may take minutes: in a thread, and cancelled at the server with their task.

Upstream: making indexes, gathering statistics. Downstream: psycopg's blocking connection.
Invariant: when the task ends, the thread has left the connection alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import psycopg

from pgflo.supervisor.race import undivided

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from psycopg.rows import TupleRow

CANCEL_AGAIN_S = 1.0
"""A statement may end just when it is cancelled, and the next one begin."""

CANCELS = 5
"""A server that has not heard of it by then is not there."""


@contextlib.asynccontextmanager
async def session(
    connect: Callable[[], psycopg.Connection[TupleRow]],
) -> AsyncIterator[psycopg.Connection[TupleRow]]:
    """Connect in a thread, and close in any case, also if the task ends before it is connected."""
    conn = await undivided(connect, psycopg.Connection.close)
    try:
        yield conn
    finally:
        conn.close()


async def to_its_end(
    conn: psycopg.Connection[TupleRow],
    call: Callable[..., None],
    *arguments: Any,  # noqa: ANN401 - those of the call
) -> None:
    """Run a call, which uses `conn`, in a thread; cancelled, it cancels the statement and waits."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        taking_back = asyncio.ensure_future(_take_back(conn, work))
        # Whoever ends several things at once may cancel this more than once.
        while not taking_back.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(taking_back)
        raise


async def _take_back(conn: psycopg.Connection[TupleRow], work: asyncio.Future[None]) -> None:
    for _ in range(CANCELS):
        with contextlib.suppress(psycopg.Error):
            await asyncio.to_thread(conn.cancel_safe, timeout=CANCEL_AGAIN_S)
        await asyncio.wait([work], timeout=CANCEL_AGAIN_S)
        if work.done():
            break
    else:
        conn.close()
    # Whatever it says was asked for.
    await asyncio.gather(work, return_exceptions=True)
