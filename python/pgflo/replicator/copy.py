"""The initial copy: one snapshot, one queue of ranges, several processes.

Upstream: creation has made the snapshot, locked the tables and cut them. Downstream: copy processes
publish the ranges; workers apply them.
Invariant: a range counts as published only when its process says that the broker stored its final
part, and the copy ends only when every range of every table does. A process that dies, or a lane
whose acknowledgement is lost, costs its range another attempt; a lost snapshot costs the whole
copy.

Small messages cross the pipes: tasks down, reports up. Rows never do.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from pgflo import errors, logs
from pgflo.broker.records import Phase
from pgflo.broker.topology import stream_state
from pgflo.errors import Kind, PgfloError
from pgflo.replicator.copy_process import CopyJob, RangeReport, RangeTask
from pgflo.replicator.copy_worker import CopyWorker, WorkerGone
from pgflo.replicator.progress import CopyTally
from pgflo.replicator.range_queue import RangeQueue
from pgflo.source.connection import application_name, connect
from pgflo.supervisor.race import all_of, first_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgflo.broker.connection import Broker
    from pgflo.config.settings import ReplicateSettings
    from pgflo.replicator.group import Group
    from pgflo.replicator.progress import CopyProgress
    from pgflo.replicator.range_queue import CopyTable
    from pgflo.replicator.sinks import Sinks
    from pgflo.source.snapshot import SnapshotHolder

log = structlog.get_logger("pgflo.replicator")

Result = TypeVar("Result")

MAX_SOURCE_FAILURES = 5
"""Attempts at one range that the source may break before the copy gives up."""

PAUSE_S = 1.0
"""Wait before a process takes the place of one that ended; between looks at a full stream."""

QUEUED_REPORT_S = 5.0
RECORD_INTERVAL_S = 0.5


class Copy:
    """The copy of one incarnation. `run` once."""

    def __init__(
        self,
        group: Group,
        broker: Broker,
        settings: ReplicateSettings,
        holder: SnapshotHolder,
        sinks: Sinks,
        watcher: Callable[[CopyProgress], None] | None,
    ) -> None:
        self._group = group
        self._broker = broker
        self._settings = settings
        self._holder = holder
        self._sinks = sinks
        self._tally = CopyTally(group.tables.values(), watcher)
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._choosing = asyncio.Lock()
        self._told_full = False
        self._queue = RangeQueue(
            group.tables.values(), max_per_table=settings.copying.max_workers_per_table
        )

    @property
    def lanes(self) -> int:
        """Copy processes that there is work for."""
        return max(1, min(self._settings.copying.max_workers, self._queue.useful_lanes))

    async def run(self) -> None:
        """Publish every range. Raises `PgfloError`; COPY_BROKEN when the snapshot is lost."""
        lanes = self.lanes
        await _insist(lambda: self._group.put(lanes=lanes))
        log.info("copying", tables=len(self._queue.tables), processes=lanes)
        started_at = time.monotonic()
        try:
            await first_of(
                all_of(*(self._fill_lane(lane) for lane in range(lanes))),
                self._lose_snapshot(),
                self._report_queued(),
                self._record(),
            )
        finally:
            await self._holder.stop()
        self._tally.tell_if_due(finished=True)
        await _insist(lambda: self._group.put(phase=Phase.STREAMING))
        seconds = time.monotonic() - started_at
        log.info(
            "copy published",
            rows=self._queue.rows,
            bytes=self._queue.published_bytes,
            seconds=round(seconds, 1),
        )

    async def _fill_lane(self, lane: int) -> None:
        """Keep one process busy until nothing is left."""
        worker: CopyWorker | None = None
        lost_in_a_row = 0
        try:
            while (task := await self._next()) is not None:
                try:
                    if worker is None:
                        worker = CopyWorker(self._job(lane))
                    report = await worker.copy(task, self._on_moved(task))
                except WorkerGone as gone:
                    await _stop(worker)
                    worker = None
                    self._retry(task, gone.report)
                    await asyncio.sleep(PAUSE_S if lost_in_a_row else 0)
                    lost_in_a_row += 1
                else:
                    lost_in_a_row = 0
                    if report.event == "done":
                        await self._done(task, report)
                    else:
                        self._retry(task, report)
        finally:
            await _stop(worker)

    async def _next(self) -> RangeTask | None:
        """Choose a range; wait while none may be started; None when all are published."""
        while not self._queue.is_done:
            self._changed.clear()
            async with self._choosing:
                table = self._queue.next_table()
                if table is not None and await self._has_room():
                    self._tally.start(table.name)
                    return self._queue.take(table)
            try:
                async with asyncio.timeout(PAUSE_S):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return None

    async def _done(self, task: RangeTask, report: RangeReport) -> None:
        table = self._queue.finish(task, report)
        self._tally.finish_range(table.name, task.range_no, report.rows, report.bytes)
        self._tally.tell_if_due()
        self._changed.set()
        if not table.left:
            log.info("table published", table=table.name, rows=table.record.published_rows)
            await self._put(table)

    def _retry(self, task: RangeTask, report: RangeReport) -> None:
        """Queue a range for another attempt, or raise when none would succeed."""
        failures = self._queue.give_back(task, source_failed=not report.code.startswith("broker."))
        table = self._queue.tables[task.relation_oid].name
        self._tally.forget_range(table, task.range_no)
        self._changed.set()
        text = f"range {task.range_no} of {table}: {report.text}"
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
        if not self._told_full and running == 0:
            self._told_full = True
            log.warning(
                "the copy stream is full; the copy waits for every sink to apply what is there",
                bytes=state.bytes,
                setting="--stream-max-bytes",
                sinks="registered" if self._sinks.any else "none: start `pgflo worker`",
            )
        return False

    async def _put(self, table: CopyTable) -> None:
        async with self._writing:
            table.is_recorded = True
            await _insist(lambda: self._group.put_table(table.record))

    async def _record(self) -> None:
        """Write the tables' records twice a second, for those who watch the group."""
        while True:
            await asyncio.sleep(RECORD_INTERVAL_S)
            for table in self._queue.tables.values():
                if not table.is_recorded:
                    await self._put(table)

    async def _lose_snapshot(self) -> None:
        raise await self._holder.broken()

    async def _report_queued(self) -> None:
        purpose = application_name(self._settings.group, "watch")
        conninfo = self._settings.source.conninfo.get_secret_value()
        async with await connect(conninfo, purpose=purpose) as conn:
            while True:
                await asyncio.sleep(QUEUED_REPORT_S)
                await self._holder.report_queued(conn)

    def _on_moved(self, task: RangeTask) -> Callable[[RangeReport], None]:
        name = self._queue.tables[task.relation_oid].name

        def moved(report: RangeReport) -> None:
            self._tally.move_range(name, task.range_no, report.rows, report.bytes)
            self._tally.tell_if_due()

        return moved

    def _job(self, lane: int) -> CopyJob:
        return CopyJob(
            conninfo=self._settings.source.conninfo.get_secret_value(),
            group=self._settings.group,
            incarnation=self._group.names.incarnation,
            nats=self._settings.nats,
            snapshot=self._holder.snapshot,
            snapshot_lsn=self._group.value.start_lsn,
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
