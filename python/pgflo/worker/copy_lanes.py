"""The initial copy: gives lanes to copy writers until every table has all its ranges.

Upstream: the group's record (lanes, tables, ranges), the copy stream. Downstream: copy writer
processes; the group's record again (which ranges are applied, up to where each lane is).
Invariant: a lane is read by one copy writer at a time, and a table counts as copied when the
destination's ledger holds as many ranges of its present snapshot as the source cut it into.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import structlog

from pgflo import errors
from pgflo.broker.records import CopiedRecord, TableState
from pgflo.broker.stored import is_missing
from pgflo.broker.topology import stream_state
from pgflo.errors import PgfloError
from pgflo.supervisor.race import first_of
from pgflo.worker import copy_writer
from pgflo.worker.child import Child
from pgflo.worker.messages import Copied, Lane, Left, encode
from pgflo.worker.report import tell_last

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.broker.record import Record
    from pgflo.broker.records import TableRecord
    from pgflo.config.settings import WorkerSettings
    from pgflo.rules.bind import Bound
    from pgflo.sinks.contract import Sink, Target
    from pgflo.worker.group_view import GroupView, View
    from pgflo.worker.report import Report

log = structlog.get_logger("pgflo.worker")

OWN_LANE_PATIENCE_S = 5.0
"""With as many copy writers as lanes, each stays with its lane."""

SHARED_LANE_PATIENCE_S = 0.2
"""With fewer, a lane that brings nothing is left for another."""


MOST_DEATHS = 5
"""Copy writers that may be killed while no range is committed; then the worker waits as well."""

DEATH_PAUSE_S = 0.2
"""Before another one takes the place of a killed one: a range that kills each is no busy loop."""

LINE_EVERY_S = 10.0
"""Between two log lines that say how far the copy is."""


class CopyLanes:
    """Loads every range that the group's record announces. `run` is its whole life."""

    def __init__(
        self,
        broker: Broker,
        record: Record,
        names: Names,
        settings: WorkerSettings,
        to: Sink,
        view: GroupView,
        report: Report,
        bound: Bound | None,
    ) -> None:
        self._bound = bound
        self._broker = broker
        self._record = record
        self._names = names
        self._settings = settings
        self._to = to
        self._view = view
        self._report = report
        self._targets: Mapping[int, Target] = {}
        self._children: list[Child] = []
        self._free: deque[int] = deque()
        """Lanes that nobody reads; the longest unread first."""
        self._lanes: set[int] = set()
        self._idle: deque[int] = deque()
        """Numbers of copy writers that have no lane."""
        self._reading: dict[int, int] = {}
        """Number of a copy writer → its lane."""
        self._deaths = 0
        """Copy writers that were killed since a range was last committed."""
        self._done: dict[tuple[int, int], dict[int, int]] = {}
        """(oid, snapshot) → range → rows."""
        self._untold: set[int] = set()
        """Tables whose record of copied ranges is behind."""
        self._lane_seqs = dict(report.lane_seqs)
        """Told behind the ranges: a sink may have no other ledger than their record."""
        self._changed = asyncio.Event()
        self.loaded: set[int] = set()
        """Tables that got rows by now."""

    async def run(self) -> None:
        """Copy until every table is complete. Raises `PgfloError`; open ranges are rolled back."""
        self._done = await asyncio.to_thread(self._to.copied_ranges, self._names.incarnation)
        view = await self._view.wait(lambda _: True)
        self._untold = set(view.tables)
        if self._is_complete(view):
            await self._tell_copied()
            return
        await self._check_stream()
        self._report.phase("copying")
        # The replicator tells the lanes right after the group is ready.
        view = await self._view.wait(lambda now: now.group.lanes > 0)
        try:
            await self._start_children(view)
            await first_of(
                self._until_complete(),
                self._distribute(),
                self._tell(),
                *(self._keep(number) for number in range(len(self._children))),
            )
            await self._tell_copied()
        finally:
            await asyncio.gather(*(child.close(at_once=True) for child in self._children))
            await tell_last(self._tell_copied())
        log.info("copy complete", **self._figures(await self._view.wait(lambda _: True)))

    def _is_complete(self, view: View) -> bool:
        if len(view.tables) < len(view.group.tables):
            return False
        return all(self._is_copied(table) for table in view.tables.values())

    def _is_copied(self, table: TableRecord) -> bool:
        if table.ranges == 0:
            return table.state is TableState.READY
        done = self._done.get((table.oid, table.snapshot_lsn), {})
        return table.state in (TableState.PUBLISHED, TableState.READY) and len(done) >= table.ranges

    async def _check_stream(self) -> None:
        """See that the copy stream still holds what this sink has not got."""
        try:
            state = await stream_state(self._broker, self._names.copy_stream)
        except PgfloError as error:
            if not is_missing(error):
                raise
            raise self._late("is gone") from None
        if state.messages < state.last_seq and not self._report.lane_seqs and not self._done:
            raise self._late("no longer holds its beginning")

    def _late(self, what: str) -> PgfloError:
        return PgfloError(
            errors.SINK_LATE,
            f"the copy stream of group {self._to.group} {what}, and sink {self._to.sink} has not"
            " copied every table",
        )

    async def _until_complete(self) -> None:
        while True:
            view = await self._view.wait(lambda _: True)
            if self._is_complete(view):
                return
            await first_of(self._changed.wait(), self._view.after(view))
            self._changed.clear()

    # --- copy writers

    async def _start_children(self, view: View) -> None:
        tables = list(view.tables.values())
        self._targets = await asyncio.to_thread(self._to.targets, tables, self._bound)
        allowed = self._to.most_copy_writers or self._settings.copy_writers
        wanted = max(1, min(allowed, self._settings.copy_writers, view.group.lanes))
        for number in range(wanted):
            self._children.append(await self._start_child(number))
            self._idle.append(number)

    async def _start_child(self, number: int) -> Child:
        return await Child.start(
            f"copy-writer {number}",
            copy_writer.main,
            number,
            self._to,
            self._settings.nats,
            self._names,
            self._targets,
            on_message=partial(self._on_message, number),
        )

    async def _keep(self, number: int) -> NoReturn:
        """Put another copy writer in the place of one that is killed, as long as ranges arrive.

        Its range is rolled back, those of the others are not. Raises what ends it otherwise, and
        if it is the only one: there is nothing to save then.
        """
        while True:
            child = self._children[number]
            error = await asyncio.shield(child.failure)
            self._deaths += 1
            if not child.was_killed or len(self._children) == 1 or self._deaths > MOST_DEATHS:
                raise error
            log.warning("a copy writer is started again", cause=error.detail)
            await asyncio.sleep(DEATH_PAUSE_S)
            if number in self._idle:
                self._idle.remove(number)
            await child.close(at_once=True)
            self._children[number] = await self._start_child(number)
            if (lane := self._reading.pop(number, None)) is not None:
                self._free.append(lane)
            self._idle.append(number)
            self._changed.set()

    def _on_message(self, number: int, message: Copied | Left) -> None:
        match message:
            case Copied():
                # One that was killed may have committed what only the next one can tell.
                ranges = self._done.setdefault((message.oid, message.snapshot_lsn), {})
                if message.range_no not in ranges:
                    ranges[message.range_no] = message.rows
                    self.loaded.add(message.oid)
                    self._untold.add(message.oid)
                    self._deaths = 0
                if message.is_new:
                    self._report.ruled(message.rules)
                self._lane_seqs[message.lane] = message.seq
            case Left():
                self._reading.pop(number, None)
                self._free.append(message.lane)
                self._idle.append(number)
        self._changed.set()

    async def _distribute(self) -> None:
        """Give free lanes to idle copy writers."""
        while True:
            view = await self._view.wait(lambda _: True)
            for lane in range(view.group.lanes):
                if lane not in self._lanes:
                    self._lanes.add(lane)
                    self._free.append(lane)
            while self._free and self._idle:
                await self._assign(self._idle.popleft(), self._free.popleft())
            waiting = self._changed.wait()
            await first_of(waiting, self._view.after(view))

    async def _assign(self, number: int, lane: int) -> None:
        is_shared = len(self._lanes) > len(self._children)
        message = Lane(
            lane,
            self._lane_seqs.get(lane, 0) + 1,
            SHARED_LANE_PATIENCE_S if is_shared else OWN_LANE_PATIENCE_S,
        )
        self._reading[number] = lane
        await self._children[number].send([encode(message)], is_waiting=True)

    # --- the group's record

    async def _tell(self) -> NoReturn:
        line_s = time.monotonic() + LINE_EVERY_S
        while True:
            await self._tell_copied()
            if time.monotonic() >= line_s:
                line_s = time.monotonic() + LINE_EVERY_S
                figures = self._figures(await self._view.wait(lambda _: True))
                log.info("loading the copy", **figures)
            await asyncio.sleep(1.0)

    def _figures(self, view: View) -> dict[str, str | int]:
        """Count tables, ranges and rows that are committed."""
        tables = list(view.tables.values())
        done = [self._done.get((table.oid, table.snapshot_lsn), {}) for table in tables]
        complete = sum(self._is_copied(table) for table in tables)
        ranges = sum(table.ranges for table in tables)
        return {
            "tables": f"{complete}/{len(tables)}",
            "ranges": f"{sum(map(len, done))}/{ranges}",
            "rows": sum(sum(of.values()) for of in done),
        }

    async def _tell_copied(self) -> None:
        view = await self._view.wait(lambda _: True)
        lane_seqs = dict(self._lane_seqs)
        for oid in self._untold & set(view.tables):
            self._untold.discard(oid)
            snapshot_lsn = view.tables[oid].snapshot_lsn
            ranges = self._done.get((oid, snapshot_lsn), {})
            rows = sum(ranges.values())
            try:
                await self._record.put_copied(
                    CopiedRecord(self._settings.sink, oid, sorted(ranges), rows, snapshot_lsn)
                )
            except BaseException:
                # Cut off or refused: lanes must not be told past what the record does not have.
                self._untold.add(oid)
                raise
        for lane, seq in lane_seqs.items():
            if seq > self._report.lane_seqs.get(lane, 0):
                self._report.lane(lane, seq)
        await self._report.flush()
