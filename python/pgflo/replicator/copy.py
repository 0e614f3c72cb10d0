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
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from pgflo import errors, logs
from pgflo.broker.records import Phase, TableRecord, TableState
from pgflo.broker.topology import stream_state
from pgflo.errors import Kind, PgfloError
from pgflo.replicator.copy_process import CopyJob, RangeReport, RangeTask
from pgflo.replicator.copy_worker import CopyWorker, WorkerGone
from pgflo.replicator.progress import CopyTally
from pgflo.replicator.race import all_of, first_of
from pgflo.source.connection import application_name, connect
from pgflo.source.ranges import TableRanges

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgflo.broker.connection import Broker
    from pgflo.config.settings import ReplicateSettings
    from pgflo.replicator.group import Group
    from pgflo.replicator.progress import CopyProgress
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
TEXT_FACTOR = 1.3
"""Bytes of COPY text per byte of heap until the first ranges have told."""


@dataclass(slots=True)
class _Table:
    """A table while it is copied."""

    record: TableRecord
    cut: TableRanges
    waiting: list[int]
    running: int = 0
    attempts: dict[int, int] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    is_recorded: bool = True

    @property
    def left(self) -> int:
        """Ranges not published yet."""
        return self.record.ranges - self.record.published_ranges


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
        self._published_bytes = 0
        self._published_heap_bytes = 0
        self._told_full = False
        by_size = sorted(group.tables.values(), key=lambda table: -table.bytes)
        self._tables = {
            table.oid: _Table(
                table,
                TableRanges(table.oid, table.ranges, table.range_blocks, table.bytes),
                # The last range first: it is the one that may have grown.
                list(range(table.ranges)),
            )
            for table in by_size
        }

    @property
    def lanes(self) -> int:
        """Copy processes that there is work for."""
        per_table = self._settings.copying.max_workers_per_table
        useful = sum(min(table.record.ranges, per_table) for table in self._tables.values())
        return max(1, min(self._settings.copying.max_workers, useful))

    async def run(self) -> None:
        """Publish every range. Raises `PgfloError`; COPY_BROKEN when the snapshot is lost."""
        lanes = self.lanes
        await self._group.put(lanes=lanes)
        log.info("copying", tables=len(self._tables), processes=lanes)
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
        await self._group.put(phase=Phase.STREAMING)
        seconds = time.monotonic() - started_at
        log.info(
            "copy published",
            rows=sum(table.record.published_rows for table in self._tables.values()),
            bytes=self._published_bytes,
            seconds=round(seconds, 1),
        )

    async def _fill_lane(self, lane: int) -> None:
        """Keep one process busy until nothing is left."""
        worker: CopyWorker | None = None
        try:
            while (task := await self._next()) is not None:
                try:
                    if worker is None:
                        worker = CopyWorker(self._job(lane))
                    report = await worker.copy(task, self._on_moved(task))
                except WorkerGone as gone:
                    await _stop(worker)
                    worker = None
                    await self._retry(task, gone.report)
                    await asyncio.sleep(PAUSE_S)
                else:
                    if report.event == "done":
                        await self._done(task, report)
                    else:
                        await self._retry(task, report)
        finally:
            await _stop(worker)

    async def _next(self) -> RangeTask | None:
        """Choose a range; wait while none may be started; None when all are published."""
        while any(table.left for table in self._tables.values()):
            table = self._choose()
            if table is not None and await self._has_room() and table.waiting:
                return await self._begin(table)
            self._changed.clear()
            try:
                async with asyncio.timeout(PAUSE_S):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return None

    def _choose(self) -> _Table | None:
        """Give the largest table that has a range to start and a worker to spare."""
        limit = self._settings.copying.max_workers_per_table
        return next(
            (table for table in self._tables.values() if table.waiting and table.running < limit),
            None,
        )

    async def _begin(self, table: _Table) -> RangeTask:
        range_no = table.waiting.pop(0)
        table.running += 1
        attempt = table.attempts[range_no] = table.attempts.get(range_no, 0) + 1
        record = table.record
        self._tally.start(_key(record))
        if record.state is TableState.WAITING:
            table.record = replace(record, state=TableState.COPYING)
            await self._put(table)
        return RangeTask(
            record.oid,
            record.schema,
            record.name,
            tuple(column.name for column in record.columns),
            range_no,
            table.cut.bounds(range_no),
            attempt,
        )

    async def _done(self, task: RangeTask, report: RangeReport) -> None:
        table = self._tables[task.relation_oid]
        table.running -= 1
        table.record = record = replace(
            table.record,
            published_ranges=table.record.published_ranges + 1,
            published_rows=table.record.published_rows + report.rows,
            published_bytes=table.record.published_bytes + report.bytes,
        )
        self._published_bytes += report.bytes
        self._published_heap_bytes += record.bytes // max(record.ranges, 1)
        self._tally.finish_range(_key(record), task.range_no, report.rows, report.bytes)
        self._changed.set()
        table.is_recorded = False
        if not table.left:
            table.record = replace(record, state=TableState.PUBLISHED)
            log.info("table published", table=_key(record), rows=record.published_rows)
            await self._put(table)
        self._tally.tell_if_due()

    async def _retry(self, task: RangeTask, report: RangeReport) -> None:
        """Queue a range for another attempt, or raise when none would succeed."""
        table = self._tables[task.relation_oid]
        table.running -= 1
        table.waiting.insert(0, task.range_no)
        self._tally.forget_range(_key(table.record), task.range_no)
        self._changed.set()
        if not report.code.startswith("broker."):
            table.failures[task.range_no] = table.failures.get(task.range_no, 0) + 1
        text = f"range {task.range_no} of {_key(table.record)}: {report.text}"
        if report.event == "failed" or table.failures.get(task.range_no, 0) >= MAX_SOURCE_FAILURES:
            raise PgfloError(_kind(report.code), text, table=_key(table.record))
        log.warning("copying a range again", range=text, attempt=task.attempt + 1)

    async def _has_room(self) -> bool:
        """Whether the copy stream can take one more range beside those that are running.

        A range that is handed out must fit: a stream filled by halves of ranges, none of which a
        sink can apply, would never empty.
        """
        state = await _insist(lambda: stream_state(self._broker, self._group.names.copy_stream))
        running = sum(table.running for table in self._tables.values())
        if state.messages == 0 and running == 0:
            return True
        factor = TEXT_FACTOR
        if self._published_heap_bytes:
            factor = max(1.0, self._published_bytes / self._published_heap_bytes)
        range_bytes = int(self._settings.copying.range_bytes * factor)
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

    async def _put(self, table: _Table) -> None:
        async with self._writing:
            table.is_recorded = True
            await _insist(lambda: self._group.put_table(table.record))

    async def _record(self) -> None:
        """Write the tables' records twice a second, for those who watch the group."""
        while True:
            await asyncio.sleep(RECORD_INTERVAL_S)
            for table in self._tables.values():
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
        key = _key(self._tables[task.relation_oid].record)

        def moved(report: RangeReport) -> None:
            self._tally.move_range(key, task.range_no, report.rows, report.bytes)
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


def _key(record: TableRecord) -> str:
    return f"{record.schema}.{record.name}"


def _kind(code: str) -> Kind:
    kinds: dict[str, Any] = {
        kind.code: kind for kind in vars(errors).values() if isinstance(kind, Kind)
    }
    found: Kind = kinds.get(code, errors.COPY_BROKEN)
    return found
