"""Waiting until the destination has everything that the source had at a moment.

Upstream: a group's name. Downstream: `pgflo.progress` at the destination, which is the truth.
Invariant: returns only when every sink row of the group covers the source's log as it was when the
wait began; gives up at a deadline and tells how far it got.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import psycopg

from pgflo import _core
from pgflo.compare.sessions import source_failure, target_failure
from pgflo.errors import COMPARE_BEHIND, PgfloError

if TYPE_CHECKING:
    from pgflo.compare.sessions import Session, Sides

POLL_S = 0.05

_NOW = "SELECT (pg_catalog.pg_current_wal_lsn() - '0/0')::int8"

_MARK = "SELECT (pg_catalog.pg_logical_emit_message(true, 'pgflo.compare', '') - '0/0')::int8"
"""A message in the log reaches the destination at once; without it an idle group tells its position
every ten seconds only."""

_PROGRESS = """
SELECT (min(end_lsn) - '0/0')::int8 FROM pgflo.progress
WHERE group_name = %s AND (%s::text IS NULL OR sink = %s)
"""


async def until_covered(sides: Sides, group: str, sink: str | None, timeout_s: float) -> int:
    """Return the LSN that the destination covers now. Raises COMPARE_BEHIND at the deadline."""
    wanted = await _mark(sides.source)
    deadline = time.monotonic() + timeout_s
    while True:
        reached = await _progress(sides.target, group, sink)
        if reached is not None and reached >= wanted:
            return wanted
        if time.monotonic() > deadline:
            stands = "has no progress row" if reached is None else f"is at {_text(reached)}"
            raise PgfloError(
                COMPARE_BEHIND,
                f"the destination does not have everything yet after {timeout_s:g} s: group {group}"
                f" {stands}, the source was at {_text(wanted)}",
                group=group,
            )
        await asyncio.sleep(POLL_S)


async def position(source: Session) -> int:
    """Give the end of the source's log."""
    try:
        row: Any = await (await source.execute(_NOW)).fetchone()
    except psycopg.Error as error:
        raise source_failure(error) from None
    return int(row[0])


async def _mark(source: Session) -> int:
    start = await position(source)
    try:
        row: Any = await (await source.execute(_MARK)).fetchone()
    except psycopg.Error:
        return start  # a role or server that may not write: the watermark will come
    return max(start, int(row[0]))


async def _progress(target: Session, group: str, sink: str | None) -> int | None:
    try:
        row: Any = await (await target.execute(_PROGRESS, (group, sink, sink))).fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    except psycopg.Error as error:
        raise target_failure(error) from None
    return int(row[0]) if row is not None and row[0] is not None else None


def _text(lsn: int) -> str:
    return _core.lsn_format(lsn)
