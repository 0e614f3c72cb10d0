"""Statements that may take minutes: in a thread, and cancelled at the server with their task.

Upstream: making indexes, gathering statistics. Downstream: psycopg's blocking connection.
Invariant: when the task ends, the thread has left the connection alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg
    from psycopg.rows import TupleRow

CANCEL_AGAIN_S = 1.0
"""A statement may end just when it is cancelled, and the next one begin."""


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
        while not work.done():
            await asyncio.to_thread(conn.cancel)
            await asyncio.wait([work], timeout=CANCEL_AGAIN_S)
        with contextlib.suppress(PgfloError):
            work.result()
        raise
