"""The worker's life: one sink of one group, from start to stop, through failures in between.

Upstream: `pgflo worker`. Downstream: the sink, `copy_lanes`, `streaming`, one after the other.
Invariant: one worker per sink. The lease keeps honest ones apart; what stops a worker that lost it
without knowing is told by `pgflo.sinks.contract`.

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
from functools import partial
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
from pgflo.rules.read import read as read_rules
from pgflo.sinks.contract import Start, superseded
from pgflo.sinks.kinds import make
from pgflo.supervisor.lifeline import tell_supervisor
from pgflo.supervisor.processes import WORKER_CHILDREN, warm_up
from pgflo.supervisor.race import first_of
from pgflo.worker.care import care_of
from pgflo.worker.copy_lanes import CopyLanes
from pgflo.worker.dispatcher import RestMissingError
from pgflo.worker.group_view import GroupView
from pgflo.worker.lock_watch import watched, watched_task
from pgflo.worker.report import Report, tell_last
from pgflo.worker.streaming import Streaming
from pgflo.worker.tables import basis, is_copied, is_described, younger_snapshots

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.config.settings import RetrySettings, WorkerSettings
    from pgflo.rules.bind import Bound
    from pgflo.rules.read import Written
    from pgflo.sinks.contract import Ranges, Sink, Taken
    from pgflo.worker.care import Care
    from pgflo.worker.group_view import View

log = structlog.get_logger("pgflo.worker")

GROUP_LOOK_S = 0.5
"""Pause between two looks for a group that does not exist yet."""


PAUSE_AGAIN_S = 60.0
"""Between two pauses."""


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
        self._to: Sink = make(settings)
        self._has_taken_over = False
        self._whole_only = False
        self._report: Report | None = None
        self._care: Care | None = None
        """That of the present life, which its end ends."""
        self._paused_at: float | None = None
        """When changes were last halted for what needs all tables to stand at one time."""
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
                await self._tell_last()
                if error.kind is errors.SINK_READER_GONE:
                    log.info("nobody reads the output any more", hint=error.hint)
                    tell_supervisor(error)
                    return
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
                # What the next life goes on from, where the record is all that remembers.
                await self._tell_last()

    async def _live(self, view: GroupView, stop: asyncio.Event) -> bool:
        """Live one life; True when the worker is done or was asked to stop."""
        try:
            return await self._live_through(view, stop)
        finally:
            care, self._care = self._care, None
            if care is not None:
                await care.end()

    async def _live_through(self, view: GroupView, stop: asyncio.Event) -> bool:
        done = await first_of(self._prepare_and_copy(view), _none_when(stop))
        if done is None or stop.is_set():
            await self._say_goodbye("stopped")
            return True
        group_view, report, care = done
        names = Names(self._settings.group, uuid.UUID(group_view.group.incarnation))
        if group_view.group.mode != "copy":
            streaming = Streaming(
                self._broker,
                names,
                self._settings,
                self._to,
                view,
                group_view,
                report,
                self._bound,
                whole_only=self._whole_only,
            )
            if not await self._stream(streaming, report, care, stop):
                return False
        if not stop.is_set():
            await care.make_rest()
        await care.finish(report)
        await self._say_goodbye("stopped" if stop.is_set() else "done")
        return True

    async def _prepare_and_copy(self, group_view: GroupView) -> tuple[View, Report, Care]:
        view = await self._wait_described(group_view)
        self._basis.set_result(view)
        incarnation = uuid.UUID(view.group.incarnation)
        taken = await self._take_over(view, incarnation, group_view)
        report = self._report = await Report.register(
            self._record,
            self._settings.sink,
            self._to.kind,
            view.group.incarnation,
            taken.position,
            taken.end_lsn,
        )
        report.begin_rules(self._bound.spec.counted if self._bound is not None else [])
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
        care = care_of(self._to, self._settings, self._record, group_view, self._bound)
        self._care = care
        await watched_task(self._to, care.complete(view, report, loaded), report)
        start_streaming = partial(self._to.start_streaming, view.group.start_lsn)
        await watched(self._to, start_streaming, report)
        await care.begin(view)
        return view, report, care

    async def _wait_described(self, group_view: GroupView) -> View:
        view = await group_view.wait(lambda _: True)
        if view.group.phase is Phase.CREATING or not is_described(view):
            log.info("waiting for the replicator to make the group ready")
        return await group_view.wait(
            lambda now: now.group.phase is not Phase.CREATING and is_described(now)
        )

    async def _take_over(self, view: View, incarnation: uuid.UUID, group_view: GroupView) -> Taken:
        sinks = await self._record.sinks()
        known = sinks.get(self._settings.sink)
        if known is not None and known.incarnation != view.group.incarnation:
            known = None
        if known is not None and known.kind != self._to.kind:
            raise PgfloError(
                errors.USAGE,
                f"sink {known.name} of group {self._settings.group} is of the kind {known.kind},"
                f" not {self._to.kind}: where it stands means nothing here",
                hint=f"Give another name, or forget that sink: `pgflo drop --group"
                f" {self._settings.group} --sink {known.name}`.",
            )
        ranges: Ranges = {}
        if known is not None:
            for record in (await self._record.copied(self._settings.sink)).values():
                ranges[record.oid, record.snapshot_lsn] = record.by_range()
        tables = list(view.tables.values())
        self._bound = bind(self._written, tables) if self._written else None
        start = Start(
            incarnation,
            view.group.start_lsn,
            tables,
            is_copied(view),
            younger_snapshots(view),
            known,
            ranges,
            self._bound,
        )
        care = care_of(self._to, self._settings, self._record, group_view, self._bound)
        await watched_task(self._to, care.before_rows(view), self._report)
        take_over = partial(self._to.take_over, start, again=self._has_taken_over)
        taken = await watched(self._to, take_over, self._report)
        self._to = taken.sink
        self._has_taken_over = True
        log.info(
            "beginning at the group's start" if taken.has_begun else "going on where this sink was",
            incarnation=view.group.incarnation,
        )
        return taken

    async def _stream(
        self, streaming: Streaming, report: Report, care: Care, stop: asyncio.Event
    ) -> bool:
        """Apply changes; False for a pause, after which another life begins."""
        halt = asyncio.Event()

        async def run() -> None:
            await first_of(streaming.run(halt), care.follow())

        async def ask_to_halt() -> None:
            await first_of(stop.wait(), self._wait_for_pause(report, care))
            halt.set()

        running, asking = asyncio.ensure_future(run()), asyncio.ensure_future(ask_to_halt())
        try:
            await running
        finally:
            for task in (running, asking):
                task.cancel()
            await asyncio.gather(running, asking, return_exceptions=True)
        return stop.is_set() or not halt.is_set()

    async def _wait_for_pause(self, report: Report, care: Care) -> None:
        if self._paused_at is not None:
            # Shards stood apart in the last pause.
            await asyncio.sleep(self._paused_at + PAUSE_AGAIN_S - time.monotonic())
        await report.reached(care.pause_lsn)
        self._paused_at = time.monotonic()

    async def _superseded(self) -> None:
        await self._lease.lost.wait()
        raise superseded(self._to.group, self._to.sink)

    async def _reborn(self, group_view: GroupView) -> bool:
        """Return False when the group's incarnation, tables or copies are others than at first."""
        first = await asyncio.shield(self._basis)
        now = await group_view.wait(lambda now: basis(now) != basis(first))
        if now.group.incarnation != first.group.incarnation:
            log.warning("the group was begun anew; so is this sink")
        else:
            log.info("the group's tables or their types are others now; changes wait meanwhile")
        return False

    async def _say_goodbye(self, phase: str) -> None:
        """Tell the group, if the broker listens: nothing depends on it."""
        if self._report is not None:
            self._report.phase(phase)
        await self._tell_last()

    async def _tell_last(self) -> None:
        """Write what is committed."""
        if self._report is not None:
            await tell_last(self._report.flush())

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
