"""The initial copy: one snapshot, one queue of ranges, several processes.

Upstream: creation has made the snapshot, locked the tables and cut them. Downstream: copy processes
publish the ranges; workers apply them. The tables' records are the ledger: a range that stands
there as published is not copied again, whoever dies.
Invariant: a range counts as published only when its process says that the broker stored its final
part, and the snapshot's holder was seen to hold the table's lock after that: rows that were read
without the lock may be half of them. The copy ends only when every range of every table counts.

    range handed out (attempt) → parts → final part stored → lock proved → record written

A crash between any two of these costs the range another attempt and nothing else. A process that
dies, or a lane whose acknowledgement is lost, does the same. What ends the whole copy (a broken
session, a broker that went back) leaves the ledger to the next run. No lane is further ahead of the
ledger than --range-size, its present range counted: so a killed replicator costs each of its
processes no more.

Small messages cross the pipes: tasks down, reports up. Rows never do.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from pgflo import errors, logs
from pgflo.broker.records import Phase, TableState
from pgflo.broker.topology import purge_through, stream_state
from pgflo.errors import Kind, PgfloError
from pgflo.replicator.copied import is_all_applied
from pgflo.replicator.copy_process import CopyJob, RangeReport, RangeTask
from pgflo.replicator.copy_report import CopyReport, table_published
from pgflo.replicator.copy_worker import CopyWorker, WorkerGone
from pgflo.replicator.range_queue import RangeQueue
from pgflo.source.shared_snapshot import snapshot_lost
from pgflo.supervisor.race import all_of, first_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgflo.broker.connection import Broker
    from pgflo.broker.copy_progress import CopyProgress
    from pgflo.broker.records import TableRecord
    from pgflo.config.settings import ReplicateSettings
    from pgflo.replicator.group import Group
    from pgflo.replicator.range_queue import CopyTable
    from pgflo.replicator.sinks import Sinks
    from pgflo.source.shared_snapshot import SharedSnapshot

log = structlog.get_logger("pgflo.replicator")

Result = TypeVar("Result")

MAX_SOURCE_FAILURES = 5
"""Attempts at one range that the source may break before the copy gives up."""

PAUSE_S = 1.0
"""Wait before a process takes the place of one that ended; between looks at a full stream."""

QUEUED_REPORT_S = 5.0

RECORDS_AT_ONCE = 32
RECORD_PAUSE_S = 0.02
"""Between two writings of the ledger that no lane waits for: many small tables share one."""


class Copy:
    """One run of the copy: all that is left under its snapshot. `run` once."""

    def __init__(
        self,
        group: Group,
        broker: Broker,
        settings: ReplicateSettings,
        snapshot: SharedSnapshot,
        sinks: Sinks,
        watcher: Callable[[CopyProgress], None] | None,
    ) -> None:
        self._group = group
        self._broker = broker
        self._settings = settings
        self._snapshot = snapshot
        self._sinks = sinks
        self._report = CopyReport(group, watcher)
        self._tally = self._report.tally
        self._changed = asyncio.Event()
        self._recording = asyncio.Event()
        self._is_awaited = asyncio.Event()
        """Set while a lane may not go on before the ledger is written."""
        self._choosing = asyncio.Lock()
        self._told_full = False
        self._is_filled = False
        self._queue = RangeQueue(
            group.unfinished,
            max_per_table=settings.copying.max_workers_per_table,
            run=group.value.copy_runs,
            range_bytes=settings.copying.range_bytes,
            as_text=settings.copying.format == "text",
        )

    @property
    def tables(self) -> list[TableRecord]:
        """The group's tables, with what is stored and not yet in their records."""
        ours = {oid: table.record for oid, table in self._queue.tables.items()}
        return list({**self._group.tables, **ours}.values())

    @property
    def lanes(self) -> int:
        """Copy processes that there is work for."""
        return max(1, min(self._settings.copying.max_workers, self._queue.useful_lanes))

    async def run(self) -> None:
        """Publish every range that is left. Raises `PgfloError`; COPY_BROKEN with the snapshot."""
        lanes = self.lanes
        await self._report.begin()
        await _insist(lambda: self._group.put(lanes=max(lanes, self._group.value.lanes)))
        log.info(
            "copying",
            tables=len(self._queue.tables),
            ranges=sum(table.left for table in self._queue.tables.values()),
            processes=lanes,
            run=self._group.value.copy_runs,
        )
        await first_of(
            # The ledger's last word is waited for: a write that is cut off may count or not.
            all_of(self._fill_lanes(lanes), self._keep_ledger()),
            self._lose_snapshot(),
            self._report_queued(),
            self._report.run(),
        )
        await self._report.finish()
        await _insist(lambda: self._group.put(phase=Phase.STREAMING, snapshot=None))

    async def _fill_lanes(self, lanes: int) -> None:
        await all_of(*(self._fill_lane(lane) for lane in range(lanes)))
        self._is_filled = True
        self._recording.set()

    async def _fill_lane(self, lane: int) -> None:
        """Keep one process busy until nothing is left."""
        worker: CopyWorker | None = None
        lost_in_a_row = 0
        try:
            while (task := await self._next(lane)) is not None:
                try:
                    if worker is None:
                        worker = CopyWorker(self._job(lane))
                    report = await worker.copy(task, self._on_moved(task))
                except WorkerGone as gone:
                    await _stop(worker)
                    worker = None
                    await self._retry(task, gone.report)
                    await asyncio.sleep(PAUSE_S if lost_in_a_row else 0)
                    lost_in_a_row += 1
                else:
                    lost_in_a_row = 0
                    if report.event == "done":
                        await self._done(task, report, lane)
                    else:
                        await self._retry(task, report)
        finally:
            await _stop(worker)

    async def _next(self, lane: int) -> RangeTask | None:
        """Choose a range; wait while none may be started; None when all are published."""
        while not self._queue.is_done:
            self._changed.clear()
            async with self._choosing:
                table = self._queue.next_table()
                if (
                    table is not None
                    and self._is_near_the_ledger(lane, table)
                    and await self._has_room()
                ):
                    self._recording.set()
                    task = self._queue.take(table)
                    self._tally.start(task.relation_oid, task.range_no)
                    return task
            try:
                async with asyncio.timeout(PAUSE_S):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return None

    def _is_near_the_ledger(self, lane: int, table: CopyTable) -> bool:
        """Whether a lane may begin a range of this table now; else the ledger is hurried."""
        is_near = self._queue.may_begin(lane, table)
        if not is_near:
            self._is_awaited.set()
        return is_near

    async def _done(self, task: RangeTask, report: RangeReport, lane: int) -> None:
        self._queue.finish(task, report, lane)
        self._tally.finish_range(task.relation_oid, task.range_no, report.rows, report.bytes)
        self._tally.tell_if_due()
        self._changed.set()
        self._recording.set()

    async def _retry(self, task: RangeTask, report: RangeReport) -> None:
        """Queue a range for another attempt, or raise when none would succeed."""
        source_failed = not report.code.startswith("broker.")
        failures = self._queue.give_back(task, source_failed=source_failed)
        table = self._queue.tables[task.relation_oid].name
        self._tally.forget_range(task.relation_oid, task.range_no)
        self._changed.set()
        text = f"range {task.range_no} of {table}: {report.text}"
        if report.code == errors.BROKER_WENT_BACK.code:
            # What it lost may be ranges that count as published: that is found out from the start.
            raise PgfloError(errors.BROKER_WENT_BACK, text, table=table)
        if source_failed and not await self._snapshot.holds([task.relation_oid]):
            raise snapshot_lost()
        if report.event == "failed" or failures >= MAX_SOURCE_FAILURES:
            raise PgfloError(_kind(report.code), text, table=table)
        log.warning("copying a range again", range=text, attempt=task.attempt + 1)

    async def _has_room(self) -> bool:
        """Whether the copy stream can take one more range beside those that are running.

        A range that is handed out must fit: a stream filled by halves of ranges, none of which a
        sink can apply, would never empty.
        """
        state = await _insist(lambda: stream_state(self._broker, self._group.names.copy_stream))
        running = self._queue.running
        if state.messages == 0 and running == 0:
            return True
        range_bytes = int(self._settings.copying.range_bytes * self._queue.text_factor)
        room_bytes = self._settings.nats.stream_max_bytes - state.bytes
        if room_bytes >= (running + 1) * range_bytes:
            self._told_full = False
            return True
        if running == 0 and not self._queue.unproved() and await self._purge_rest(state.last_seq):
            return False
        if not self._told_full and running == 0:
            self._told_full = True
            log.warning(
                "the copy stream is full; the copy waits for every sink to apply what is there",
                bytes=state.bytes,
                setting="--stream-max-bytes",
                sinks="registered" if self._sinks.any else "none: start `pgflo worker`",
            )
        return False

    async def _purge_rest(self, last_seq: int) -> bool:
        """Purge a stream that holds only what broken attempts left; False if it holds more."""
        if not await _insist(lambda: is_all_applied(self._group)):
            return False
        stream = self._group.names.copy_stream
        await _insist(lambda: purge_through(self._broker, stream, last_seq))
        return True

    async def _keep_ledger(self) -> None:
        """Write the ledger whenever there is something new, until every range is in it."""
        is_last = False
        while not is_last:
            await self._recording.wait()
            self._recording.clear()
            is_last = self._is_filled
            await self._write_ledger()
            if not is_last:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RECORD_PAUSE_S):
                        await self._is_awaited.wait()

    async def _write_ledger(self) -> None:
        """Publish what is stored, with proof, and write the records that changed.

        Raises `PgfloError` (COPY_BROKEN) when there is no proof, (GROUP_CHANGED) when another run
        owns the records.
        """
        unproved, stored = self._queue.unproved(), self._queue.unwritten
        self._is_awaited.clear()
        if unproved:
            if not await self._snapshot.holds(unproved):
                raise snapshot_lost()
            self._queue.publish(unproved)
            for oid in unproved:
                self._queue.tables[oid].change(copy_s=round(self._tally.seconds(oid), 3))
        changed = [table for table in self._queue.tables.values() if not table.is_recorded]
        for first in range(0, len(changed), RECORDS_AT_ONCE):
            await all_of(*(self._put(table) for table in changed[first : first + RECORDS_AT_ONCE]))
        self._queue.note_written(stored)
        self._changed.set()

    async def _put(self, table: CopyTable) -> None:
        record = table.record
        await _insist(lambda: self._group.put_table(record))
        table.is_recorded = table.record is record
        if record.state is TableState.PUBLISHED:
            table_published(record)

    async def _lose_snapshot(self) -> None:
        raise await self._snapshot.lost()

    async def _report_queued(self) -> None:
        while True:
            await asyncio.sleep(QUEUED_REPORT_S)
            self._report.queued = await self._snapshot.report_queued()

    def _on_moved(self, task: RangeTask) -> Callable[[RangeReport], None]:
        def moved(report: RangeReport) -> None:
            self._tally.move_range(task.relation_oid, task.range_no, report.rows, report.bytes)
            self._tally.tell_if_due()

        return moved

    def _job(self, lane: int) -> CopyJob:
        return CopyJob(
            conninfo=self._settings.source.conninfo.get_secret_value(),
            group=self._settings.group,
            incarnation=self._group.names.incarnation,
            nats=self._settings.nats,
            held=self._snapshot.held,
            lane=lane,
            log_payload=logs.child_payload(),
        )


async def _insist(action: Callable[[], Awaitable[Result]]) -> Result:
    """Repeat until the broker answers: a copy is too dear to be lost by its restart."""
    while True:
        try:
            return await action()
        except PgfloError as error:
            if not error.can_heal:
                raise
            log.warning("the copy waits for the broker", cause=error.detail)
        await asyncio.sleep(PAUSE_S)


async def _stop(worker: CopyWorker | None) -> None:
    if worker is not None:
        await worker.stop()


def _kind(code: str) -> Kind:
    kinds: dict[str, Any] = {
        kind.code: kind for kind in vars(errors).values() if isinstance(kind, Kind)
    }
    found: Kind = kinds.get(code, errors.COPY_BROKEN)
    return found
