"""Says who keeps the destination from going on: a lock that somebody holds, a standby that is away.

Upstream: `dispatcher` tells how long it has been waiting for the writer; `run` and `streaming` have
what they do at the destination themselves watched. Downstream: the worker's log, the sink's record
(`pgflo status` shows it), and a short-lived connection to the destination.
Invariant: it only looks. While the destination answers, nothing is asked of it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import psycopg
import structlog

from pgflo.errors import PgfloError
from pgflo.sinks.postgres.connection import Destination
from pgflo.sinks.postgres.lock_waits import LockWait, StandbyWait, lock_waits, standby_waits
from pgflo.supervisor.race import first_of, undivided

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pgflo.sinks.contract import Sink
    from pgflo.worker.report import Report

log = structlog.get_logger("pgflo.worker")

LOCK_WAIT_S = 5.0
"""A wait of an application's ordinary transaction is over by then."""

LOOK_S = 1.0

SLOW_STEP_S = 60.0
"""An epoch takes the destination a second or less."""

REPEAT_S = 60.0
"""Pause between two warnings about the same trouble."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waits:
    """What sessions of this run wait for."""

    locks: list[LockWait]
    standbys: list[StandbyWait]

    def __str__(self) -> str:
        # Several shards may wait for one standby.
        told = dict.fromkeys(map(str, (*self.locks, *self.standbys)))
        return "; ".join(told)


class LockWatch:
    """One watch over the sessions of a run; `run` is its whole life."""

    def __init__(
        self, to: Sink | Destination, busy_s: Callable[[], float], tell: Callable[[str], None]
    ) -> None:
        """Watch a database; any other sink is not looked at.

        `busy_s`: how long the writers have left us without an answer; 0 if nothing is due.

        `tell` gets who blocks us, and an empty text when that is over.
        """
        self._to = to
        self._busy_s = busy_s
        self._tell = tell
        self._warned_at: float | None = None
        self._is_told = False

    async def run(self) -> NoReturn:
        """Look as long as something takes long."""
        to = self._to
        while not isinstance(to, Destination):
            await asyncio.Event().wait()
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                busy_s = self._busy_s()
                if busy_s < LOCK_WAIT_S:
                    self._over()
                elif self._warned_at is None or time.monotonic() - self._warned_at >= REPEAT_S:
                    self._warn(await asyncio.to_thread(self._look, to), busy_s)
        finally:
            self._over()

    @staticmethod
    def _look(to: Destination) -> Waits:
        try:
            with to.connect("locks") as conn:
                return Waits(
                    lock_waits(conn, to, LOCK_WAIT_S), standby_waits(conn, to, LOCK_WAIT_S)
                )
        except (PgfloError, psycopg.Error) as error:
            # Whatever is wrong with the destination, the writer meets it as well.
            log.debug("cannot look who holds locks", cause=type(error).__name__)
            return Waits([], [])

    def _warn(self, waits: Waits, busy_s: float) -> None:
        for wait in waits.locks:
            log.warning(
                "waiting for a lock at the destination",
                table=wait.relation or None,
                seconds=round(wait.seconds),
                pid=wait.pid,
                blocked_by=[blocker.pid for blocker in wait.blockers],
                who=[str(blocker) for blocker in wait.blockers],
                hint="`SELECT pg_cancel_backend(pid)` ends a statement there,"
                " pg_terminate_backend(pid) a session that is idle in transaction.",
            )
        if waits.standbys:
            log.warning(
                "commits at the destination wait for a synchronous standby",
                seconds=round(max(wait.seconds for wait in waits.standbys)),
                pids=[wait.pid for wait in waits.standbys],
                standbys=waits.standbys[0].standbys,
                hint="Look into pg_stat_replication there. Without that standby it goes on after"
                " `ALTER SYSTEM SET synchronous_standby_names = ''` and `SELECT pg_reload_conf()`.",
            )
        if waits.locks or waits.standbys:
            self._warned_at, self._is_told = time.monotonic(), True
            self._tell(str(waits))
        elif busy_s >= SLOW_STEP_S:
            self._warned_at = time.monotonic()
            log.warning(
                "the destination works on one step for long; pg_stat_activity tells what for",
                seconds=round(busy_s),
            )

    def _over(self) -> None:
        self._warned_at = None
        if self._is_told:
            self._is_told = False
            self._tell("")
            log.info("the destination goes on")


async def watched(to: Sink | Destination, work: Callable[[], T], report: Report | None) -> T:
    """Run in a thread what may wait at the destination; say for whom, if it takes long.

    Cancelled, it waits for the thread: what that does there must not go on beside what comes next.
    """
    return await watched_task(to, undivided(work), report)


async def watched_task(
    to: Sink | Destination, running: Coroutine[Any, Any, T], report: Report | None
) -> T:
    """Do the same for what runs in threads of its own."""
    began_at = time.monotonic()

    def busy_s() -> float:
        return time.monotonic() - began_at

    if report is None:  # the sink is not registered yet: only the log is told
        done: T = await first_of(running, LockWatch(to, busy_s, lambda _: None).run())
    else:
        done = await first_of(running, LockWatch(to, busy_s, report.blocked).run(), report.run())
    return done
