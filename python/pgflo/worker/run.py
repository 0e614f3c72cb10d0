"""The worker's life: one sink of one group, from start to stop, through failures in between.

Upstream: `pgflo worker`. Downstream: `prepare`, `copy_lanes`, `streaming`, one after the other.
Invariant: one worker per sink. The lease keeps honest ones apart; a worker that lost it without
knowing is stopped by the fence at the destination, before it commits anything.

A life is: wait for the group, take the sink over, copy, stream. Whatever fails and can heal ends
the life; after a pause the next one begins at what the destination has. A new incarnation of the
group begins a new life at once, and so does another copy of one of its tables.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from pgflo import errors
from pgflo.broker.connection import connect
from pgflo.broker.lease import Lease
from pgflo.broker.names import Names
from pgflo.broker.record import Record
from pgflo.broker.records import Phase
from pgflo.errors import PgfloError
from pgflo.rules.bind import bind, digests
from pgflo.rules.check import check
from pgflo.rules.destinations import destined
from pgflo.rules.read import read as read_rules
from pgflo.schema.sync import Wanted, sync_before_rows
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.connection import Destination
from pgflo.sinks.postgres.prepare import prepare, tables_through_root
from pgflo.supervisor.processes import WORKER_CHILDREN, warm_up
from pgflo.supervisor.race import first_of
from pgflo.worker.completion import Completion
from pgflo.worker.copy_lanes import CopyLanes
from pgflo.worker.dispatcher import RestMissingError
from pgflo.worker.group_view import GroupView
from pgflo.worker.lock_watch import watched, watched_task
from pgflo.worker.report import Report
from pgflo.worker.sequences import Sequences
from pgflo.worker.streaming import Streaming
from pgflo.worker.tables import (
    basis,
    is_copied,
    is_described,
    sink_tables,
    younger_snapshots,
)

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.config.settings import RetrySettings, WorkerSettings
    from pgflo.rules.bind import Bound
    from pgflo.rules.read import Written
    from pgflo.worker.group_view import View

log = structlog.get_logger("pgflo.worker")

GROUP_LOOK_S = 0.5
"""Pause between two looks for a group that does not exist yet."""


PAUSE_AGAIN_S = 60.0
"""Between two pauses in which the rest of the schema may be made."""

GOODBYE_S = 2.0
"""How long the last word to the group may take."""


async def run(settings: WorkerSettings, stop: asyncio.Event) -> None:
    """Apply the group to the sink until `stop` is set or the ending of the settings is reached.

    Steps under way when `stop` comes are finished, within 20 s. Raises `PgfloError`:
    GROUP_SUPERSEDED if another worker took over, and every failure that time does not heal.
    """
    structlog.contextvars.bind_contextvars(group=settings.group, sink=settings.sink)
    written = await asyncio.to_thread(read_rules, settings.rules_config, settings.routing_config)
    await asyncio.to_thread(warm_up, WORKER_CHILDREN)
    broker = await connect(settings.nats, name=f"pgflo worker {settings.group}/{settings.sink}")
    try:
        record = await first_of(_open_record(broker, settings.group), _none_when(stop))
        if record is None:
            return
        lease = await first_of(
            Lease.acquire(record, f"sink.{settings.sink}", wait=True), _none_when(stop)
        )
        if lease is None:
            return
        try:
            await Worker(settings, broker, record, lease, written).run(stop)
        finally:
            with contextlib.suppress(PgfloError):
                await lease.release()
    finally:
        await broker.close()


@dataclass(frozen=True, slots=True)
class Ready:
    """What a life has when everything is copied."""

    view: View
    report: Report
    sequences: Sequences
    completion: Completion


class Worker:
    """The lives of one run."""

    def __init__(
        self,
        settings: WorkerSettings,
        broker: Broker,
        record: Record,
        lease: Lease,
        written: Written,
    ) -> None:
        self._written = written
        self._bound: Bound | None = None
        self._settings = settings
        self._broker = broker
        self._record = record
        self._lease = lease
        self._to = Destination(
            settings.target.get_secret_value(), settings.group, settings.sink, uuid.uuid4()
        )
        self._has_taken_over = False
        self._whole_only = False
        self._report: Report | None = None
        self._paused_at: float | None = None
        """When changes were last halted to make the rest of the schema."""
        self._basis: asyncio.Future[View] = asyncio.get_running_loop().create_future()
        """What the record said when the destination was made ready for the present life."""

    async def run(self, stop: asyncio.Event) -> None:
        """Live until stopped, done, or failed for good."""
        backoff = Backoff(self._settings.retry)
        while not stop.is_set():
            view = GroupView(self._record)
            self._basis = asyncio.get_running_loop().create_future()
            before = self._mark()
            try:
                is_over = await first_of(
                    self._live(view, stop), view.run(), self._superseded(), self._reborn(view)
                )
            except PgfloError as error:
                self._whole_only = isinstance(error, RestMissingError)
                if self._mark() != before:
                    backoff.reset()
                # Before the first success somebody is looking on, and may have mistyped a name.
                can_heal = error.can_heal and self._has_taken_over
                is_contended = error.kind is errors.SINK_CONTENDED
                wait_s = backoff.next_wait_s(shortest=is_contended) if can_heal else None
                if wait_s is None:
                    raise
                log.warning(
                    "trying again", cause=error.detail, hint=error.hint, in_s=round(wait_s, 1)
                )
                await first_of(asyncio.sleep(wait_s), stop.wait(), self._superseded())
            else:
                if is_over:
                    return

    async def _live(self, view: GroupView, stop: asyncio.Event) -> bool:
        """Live one life; True when the worker is done or was asked to stop."""
        done = await first_of(self._prepare_and_copy(view), _none_when(stop))
        if done is None or stop.is_set():
            await self._say_goodbye("stopped")
            return True
        ready: Ready = done
        names = Names(self._settings.group, uuid.UUID(ready.view.group.incarnation))
        if ready.view.group.mode != "copy":
            streaming = Streaming(
                self._broker,
                names,
                self._settings,
                self._to,
                view,
                ready.view,
                ready.report,
                self._bound,
                whole_only=self._whole_only,
            )
            if not await self._stream(streaming, ready, stop):
                await ready.sequences.close()
                return False
        if ready.completion.pause_lsn is not None and not stop.is_set():
            await ready.completion.make_schema()
        await ready.sequences.finish(ready.report)
        await self._say_goodbye("stopped" if stop.is_set() else "done")
        return True

    async def _prepare_and_copy(self, group_view: GroupView) -> Ready:
        view = await self._wait_described(group_view)
        self._basis.set_result(view)
        incarnation = uuid.UUID(view.group.incarnation)
        await self._take_over(view, incarnation)
        report = self._report = await Report.register(
            self._record,
            self._settings.sink,
            self._settings.kind,
            view.group.incarnation,
            (view.group.start_lsn, 0),
            view.group.start_lsn,
        )
        if self._bound is not None:
            report.titles = self._bound.spec.titles
        report.compiled(digests(self._bound, view.tables.values()))
        loaded: set[int] = set()
        if is_copied(view):
            names = Names(self._settings.group, incarnation)
            lanes = CopyLanes(
                self._broker,
                self._record,
                names,
                self._settings,
                self._to,
                group_view,
                report,
                self._bound,
            )
            await first_of(lanes.run(), report.run())
            loaded = lanes.loaded
        completion = Completion(self._settings, self._to, view, self._bound, report)
        await watched_task(self._to, completion.run(loaded), report)
        sequences = Sequences(self._record, self._to, view.group.incarnation, group_view)
        await sequences.set()
        return Ready(view, report, sequences, completion)

    async def _wait_described(self, group_view: GroupView) -> View:
        view = await group_view.wait(lambda _: True)
        if view.group.phase is Phase.CREATING or not is_described(view):
            log.info("waiting for the replicator to make the group ready")
        return await group_view.wait(
            lambda now: now.group.phase is not Phase.CREATING and is_described(now)
        )

    async def _take_over(self, view: View, incarnation: uuid.UUID) -> None:
        records = list(view.tables.values())
        self._bound = bind(self._written, records) if self._written else None
        tables = sink_tables(records, self._bound, copied=is_copied(view))
        bound = self._bound
        if bound is not None:
            self._to = replace(self._to, spec=bound.spec)
        if self._settings.schema_source is not None:
            names = {
                table.oid: (table.schema, table.name)
                for table in records
                if any(to.is_own for to in destined(table, bound))
            }
            source = self._settings.schema_source.get_secret_value()
            syncing = sync_before_rows(self._to, Wanted(source, incarnation, names))
            await watched_task(self._to, syncing, self._report)

        def work() -> tuple[bool, frozenset[int]]:
            with self._to.connect("worker", warn=not self._has_taken_over) as conn:
                if bound is not None:
                    check(conn, bound, records, tables)
                has_begun = prepare(
                    conn,
                    self._to,
                    tables,
                    incarnation,
                    view.group.start_lsn,
                    self._settings.target_not_empty,
                    again=self._has_taken_over,
                )
                return has_begun, tables_through_root(conn, tables)

        has_begun, through_root = await watched(self._to, work, self._report)
        snapshots = younger_snapshots(view)
        self._to = replace(self._to, through_root=through_root, snapshots=snapshots)
        self._has_taken_over = True
        log.info(
            "beginning at the group's start" if has_begun else "going on where this sink was",
            incarnation=view.group.incarnation,
        )

    async def _stream(self, streaming: Streaming, ready: Ready, stop: asyncio.Event) -> bool:
        """Apply changes; False for a pause in which the rest of the schema can be made."""
        halt = asyncio.Event()

        async def run() -> None:
            await first_of(streaming.run(halt), ready.sequences.follow())

        async def ask_to_halt() -> None:
            await first_of(stop.wait(), self._wait_for_pause(ready))
            halt.set()

        running, asking = asyncio.ensure_future(run()), asyncio.ensure_future(ask_to_halt())
        try:
            await running
        finally:
            for task in (running, asking):
                task.cancel()
            await asyncio.gather(running, asking, return_exceptions=True)
        return stop.is_set() or not halt.is_set()

    async def _wait_for_pause(self, ready: Ready) -> None:
        if self._paused_at is not None:
            # Shards stood apart in the last pause.
            await asyncio.sleep(self._paused_at + PAUSE_AGAIN_S - time.monotonic())
        await ready.report.reached(ready.completion.pause_lsn)
        self._paused_at = time.monotonic()

    async def _superseded(self) -> None:
        await self._lease.lost.wait()
        raise progress.superseded(self._to)

    async def _reborn(self, group_view: GroupView) -> bool:
        """Return False when the group's incarnation, tables or copies are others than at first."""
        first = await asyncio.shield(self._basis)
        now = await group_view.wait(lambda now: basis(now) != basis(first))
        if now.group.incarnation != first.group.incarnation:
            log.warning("the group was begun anew; so is this sink")
        else:
            log.info("tables joined the group, or are copied anew; changes wait meanwhile")
        return False

    async def _say_goodbye(self, phase: str) -> None:
        """Tell the group, if the broker listens: nothing depends on it."""
        if self._report is not None:
            self._report.phase(phase)
            with contextlib.suppress(PgfloError, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._report.flush()

    def _mark(self) -> object:
        """Change whenever something is committed."""
        return None if self._report is None else self._report.applied


class Backoff:
    """Growing, jittered waits between lives."""

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._attempts = 0

    def reset(self) -> None:
        """Begin with the shortest wait again: there was progress."""
        self._attempts = 0

    def next_wait_s(self, *, shortest: bool = False) -> float | None:
        """Give the next wait in seconds; None when there were enough attempts.

        `shortest`: the other side is well and the wait need not grow.
        """
        self._attempts += 1
        if 0 < self._settings.max_attempts <= self._attempts:
            return None
        doublings = 0 if shortest else min(self._attempts - 1, 30)
        longest_s = min(self._settings.max_wait_s, self._settings.initial_wait_s * 2**doublings)
        return random.uniform(longest_s / 2, longest_s)  # noqa: S311 - jitter, not a secret


async def _open_record(broker: Broker, group: str) -> Record:
    """Open the group's record, as soon as there is one."""
    is_told = False
    while True:
        record = await Record.open(broker, group, create=False)
        if record is not None:
            return record
        if not is_told:
            log.info("waiting for the group; start `pgflo replicate` for it")
            is_told = True
        await asyncio.sleep(GROUP_LOOK_S)


async def _none_when(stop: asyncio.Event) -> None:
    await stop.wait()
