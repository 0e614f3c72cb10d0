"""Carries the plan out: tables in their order before the rows, everything else in parallel after.

Upstream: the worker, before and after the copy. Downstream: `ledger`, whose transactions make
parts; the worker's report.
Invariant: keys are begun before anything that can wait, no two parts that would lock each other out
work on one table, and when `AfterRows.run` returns every part of the plan is made.

All of it comes before the first change. An index that is made while changes are applied would hold
them up or be held up by them; and a foreign key can be checked in the state that the copy leaves,
which the source was in, but not between two shards that stand apart. Where the copy leaves no such
state, since tables were copied at several times, foreign keys wait for a pause after the changes up
to the latest of them.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import structlog

from pgflo.errors import PgfloError
from pgflo.schema import ledger
from pgflo.schema.plan import Stage
from pgflo.sinks.postgres.connection import failure
from pgflo.sinks.postgres.long_statement import session, to_its_end
from pgflo.supervisor.race import all_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgflo.schema.plan import Part
    from pgflo.sinks.postgres.connection import Destination

log = structlog.get_logger("pgflo.schema")

PARTS_A_COMMIT = 50
"""Parts before the rows that are made in one transaction: each new table takes some locks, for
which the server's lock table has a fixed size."""


async def before_rows(to: Destination) -> None:
    """Make all that has to be there before the rows. Raises `PgfloError`; done parts stay done."""
    left, _ = await asyncio.to_thread(_open_parts, to)
    parts = [part for part in left if part.stage is Stage.BEFORE_ROWS]
    if not parts:
        return
    async with session(partial(ledger.connect, to, "schema")) as conn:
        for first in range(0, len(parts), PARTS_A_COMMIT):
            some = parts[first : first + PARTS_A_COMMIT]
            await to_its_end(conn, ledger.make, conn, to, some)
    log.info("tables made at the destination, and what they need", objects=len(parts))


VIOLATED = "23503"
"""SQLSTATE of a foreign key that rows violate."""


def _is_for_one_state(part: Part) -> bool:
    return part.stage is Stage.FOREIGN_KEYS


async def tell_unfinished(to: Destination) -> None:
    """Warn a worker that does not bring the schema of what a former one has left."""
    left, _ = await asyncio.to_thread(_open_parts, to)
    if left:
        log.warning(
            "indexes, constraints and triggers are missing; --target-sync-schema makes them",
            parts=len(left),
        )


def _open_parts(to: Destination) -> tuple[list[Part], int]:
    with to.connect("schema") as conn:
        try:
            return ledger.open_parts(conn, to)
        except psycopg.Error as error:
            raise failure(error, "cannot read the plan of the schema") from None


LONG_S = 5.0
"""A part that takes longer gets a line of the log; of the others one in `TELL_S` does."""

TELL_S = 10.0


class AfterRows:
    """Indexes, constraints and triggers, over several connections. `run` once."""

    def __init__(self, to: Destination, connections: int, tell: Callable[[int, int], None]) -> None:
        """`tell` hears how many parts there are, and how many of them are made."""
        self._to = to
        self._connections = connections
        self._tell = tell
        self._waiting: list[Part] = []
        self._working: list[Part] = []
        self._open: set[int] = set()
        """Numbers of the parts that wait or are worked on."""
        self._done = self._total = 0
        self._may_differ = False
        self._told_at = time.monotonic()
        self._changed = asyncio.Condition()

    async def run(self, *, is_one_state: bool, may_differ: bool) -> int:
        """Make every part that is left. Raises `PgfloError`; done parts stay done.

        Foreign keys only if all tables stand at one time; gives how many have to wait for that.
        `may_differ`: a foreign key that the rows violate is told, and left to the next start.
        """
        started_at = time.monotonic()
        self._may_differ = may_differ
        left, self._done = await asyncio.to_thread(_open_parts, self._to)
        self._waiting = [part for part in left if is_one_state or not _is_for_one_state(part)]
        held_back = len(left) - len(self._waiting)
        if held_back:
            log.info("foreign keys wait until all tables stand at one time", parts=held_back)
        if not self._waiting:
            return held_back
        self._open = {part.number for part in self._waiting}
        count = len(self._waiting)
        self._total = self._done + count
        self._tell(self._total, self._done)
        lanes = min(self._connections, count)
        log.info("making indexes and constraints", parts=count, connections=lanes)
        await all_of(*(self._lane(number) for number in range(lanes)))
        seconds = round(time.monotonic() - started_at, 1)
        log.info("indexes and constraints made", parts=count, seconds=seconds)
        return held_back

    async def _lane(self, number: int) -> None:
        async with session(partial(ledger.connect, self._to, f"schema{number}")) as conn:
            while (part := await self._next()) is not None:
                started_at = time.monotonic()
                try:
                    await to_its_end(conn, ledger.make, conn, self._to, [part])
                except PgfloError as error:
                    if not (self._may_differ and error.context.get("sqlstate") == VIOLATED):
                        raise
                    log.warning("a foreign key is left to the next start", cause=error.detail)
                await self._finish(part, time.monotonic() - started_at)

    async def _next(self) -> Part | None:
        """Take the first part that may be begun; wait for one; None when none is left."""
        async with self._changed:
            while self._waiting:
                part = next(filter(self._may_begin, self._waiting), None)
                if part is not None:
                    self._waiting.remove(part)
                    self._working.append(part)
                    return part
                await self._changed.wait()
            return None

    def _may_begin(self, part: Part) -> bool:
        if not self._open.isdisjoint(part.after):
            return False
        tables = set(part.tables)
        return not any(
            (part.exclusive or other.exclusive) and not tables.isdisjoint(other.tables)
            for other in self._working
        )

    async def _finish(self, part: Part, seconds: float) -> None:
        async with self._changed:
            self._working.remove(part)
            self._open.remove(part.number)
            self._done += 1
            self._changed.notify_all()
        self._tell(self._total, self._done)
        now = time.monotonic()
        is_worth_a_line = seconds >= LONG_S or now - self._told_at >= TELL_S
        (log.info if is_worth_a_line else log.debug)(
            "made",
            part=part.label,
            seconds=round(seconds, 1),
            progress=f"{self._done}/{self._total}",
        )
        self._told_at = now if is_worth_a_line else self._told_at
