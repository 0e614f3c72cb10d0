"""The replicator's main task: from the lease to the last confirmation.

Upstream: the command line gives settings and an event that asks to stop. Downstream: opening, copy
and stream.
Invariant: only the holder of the group's lease touches slot, streams and record. A failure that
time can heal is tried again with growing waits once the group has started; every other one ends the
replicator with the error that says what to do.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import psycopg
import structlog

from pgflo import errors
from pgflo._core import lsn_format
from pgflo.broker import connection as broker_connection
from pgflo.broker.lease import Lease
from pgflo.broker.record import Record
from pgflo.broker.records import Phase
from pgflo.broker.topology import stream_state
from pgflo.errors import PgfloError
from pgflo.replicator import copied
from pgflo.replicator.copy import Copy
from pgflo.replicator.group import COPY_ONLY, Group
from pgflo.replicator.ledger import ConfirmAfter, Ledger
from pgflo.replicator.opening import Opening
from pgflo.replicator.retention import Retention
from pgflo.replicator.sequences import Sequences
from pgflo.replicator.sinks import Sinks
from pgflo.replicator.stream import MAX_BODY_BYTES, Ending, Session
from pgflo.replicator.waits import Waits
from pgflo.source.connection import application_name, failure
from pgflo.supervisor.processes import REPLICATOR_CHILDREN, warm_up
from pgflo.supervisor.race import first_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgflo.broker.connection import Broker
    from pgflo.broker.copy_progress import CopyProgress
    from pgflo.config.settings import ReplicateSettings
    from pgflo.source.shared_snapshot import SharedSnapshot

log = structlog.get_logger("pgflo.replicator")

CALM_S = 60.0
"""A connection that lasted this long starts the waits anew."""

ROOM_LOOK_S = 1.0
"""Seconds between two looks at a change stream that takes nothing more."""

COPY_ATTEMPTS = 5
"""Snapshots that may be lost in a row before the copy gives up."""


async def run(
    settings: ReplicateSettings,
    stop: asyncio.Event,
    progress: Callable[[CopyProgress], None] | None = None,
) -> None:
    """Replicate a group until it is done, `stop` is set, or a failure needs the operator.

    `settings.nats.url` must be set. Returns when everything in flight is stored and the slot is
    free; `progress` hears of the copy at most four times a second. Raises `PgfloError`.
    """
    if settings.mode != "stream":
        warm_up(REPLICATOR_CHILDREN)
    async with AsyncExitStack() as stack:
        broker = await broker_connection.connect(
            settings.nats, name=application_name(settings.group, "replicator")
        )
        stack.push_async_callback(broker.close)
        replicator = Replicator(settings, broker, stop, progress)
        await replicator.run()


class _TablesWaitError(Exception):
    """The copy is complete, and tables wait to join: begin again from the record."""


class Replicator:
    """One run of the replicator."""

    def __init__(
        self,
        settings: ReplicateSettings,
        broker: Broker,
        stop: asyncio.Event,
        progress: Callable[[CopyProgress], None] | None,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._stop = stop
        self._progress = progress
        self._opening = Opening(settings, broker)
        self._target_lsn: int | None = None
        self._waits = Waits(settings.retry)
        self._lost_copies = 0
        """Snapshots lost since a copy was complete."""

    async def run(self) -> None:
        """Take the lease, then make or resume the group and work on it."""
        settings = self._settings
        record = await Record.open(self._broker, settings.group, create=False)
        if record is None:
            # Nothing is left behind by a start that the preflight refuses.
            await self._opening.examine_new()
            record = await Record.open(self._broker, settings.group, create=True)
        if record is None:
            raise PgfloError(errors.BROKER_RECORD, "the group's record was removed meanwhile")
        lease = await Lease.acquire(record, "replicator", wait=False)
        try:
            await first_of(self._work(record), self._lose(lease))
        finally:
            self._opening.leave()
            await lease.release()
            if self._opening.is_abandoned and not await record.sinks():
                # A group whose first start failed was never there.
                await record.destroy()

    async def _lose(self, lease: Lease) -> None:
        await lease.lost.wait()
        raise PgfloError(
            errors.GROUP_SUPERSEDED,
            f"another replicator of group {self._settings.group} took over the lease",
        )

    async def _work(self, record: Record) -> None:
        """Open the group and replicate, again after what time can heal."""
        while not self._stop.is_set():
            try:
                opened = await first_of(self._opening.open(record), self._stop.wait())
                if not isinstance(opened, tuple):
                    return
                self._waits.started()
                await self._replicate(*opened)
            except psycopg.Error as error:
                problem = failure(error, "the source failed")
            except PgfloError as error:
                problem = error
            except _TablesWaitError:
                continue
            else:
                return
            self._lost_copies += problem.kind is errors.COPY_BROKEN
            if self._lost_copies >= COPY_ATTEMPTS:
                raise problem
            if self._opening.has_begun:
                self._waits.started()
            await self._waits.wait(problem, self._stop)

    async def _replicate(self, group: Group, snapshot: SharedSnapshot | None) -> None:
        """Copy and stream at the same time, until both are done."""
        sinks = Sinks(group.record, group.value.incarnation, group.value.start_lsn)
        copy = None
        if snapshot is not None:
            copy = Copy(group, self._broker, self._settings, snapshot, sinks, self._progress)
        lanes = max(copy.lanes if copy else 0, group.value.lanes)
        incarnation, tables = group.value.incarnation, group.value.tables
        sequences = Sequences(
            group.record, incarnation, tables, self._settings.source.conninfo.get_secret_value()
        )
        retention = Retention(self._broker, group.names, self._settings.nats, sinks, lanes)
        try:
            ended_lsn = await first_of(
                self._copy_and_stream(group, copy, sinks),
                sinks.follow(),
                retention.run(),
                sequences.run(sinks),
                copied.watch(
                    self._broker,
                    group,
                    lambda: copy.tables if copy else list(group.tables.values()),
                    self._opening.looked_at_generation,
                ),
            )
            await sequences.tell_last()
        finally:
            if snapshot is not None:
                await snapshot.close()
        if ended_lsn is not None:
            await group.put(phase=Phase.DONE, final_lsn=ended_lsn)
            log.info("done", group=self._settings.group, final_lsn=lsn_format(ended_lsn))

    async def _copy(self, copy: Copy) -> None:
        """Copy what is left, then let go of the snapshot."""
        await copy.run()
        self._lost_copies = 0
        await self._opening.let_go()

    async def _copy_and_stream(self, group: Group, copy: Copy | None, sinks: Sinks) -> int | None:
        """Give the LSN at which the group ended by itself; None when it was stopped."""
        if group.value.mode == COPY_ONLY:
            if copy is not None:
                await first_of(self._copy(copy), self._stop.wait())
                if self._stop.is_set():
                    return None
            else:
                log.info("the copy is complete already; --restart copies anew")
            return group.value.start_lsn
        if copy is None:
            return await self._stream(group, sinks)
        is_copied = asyncio.Event()
        streaming = asyncio.ensure_future(self._stream(group, sinks, is_copied))
        copying = asyncio.ensure_future(self._copy_then_set(copy, is_copied))
        try:
            done, _ = await asyncio.wait({streaming, copying}, return_when=asyncio.FIRST_COMPLETED)
            # The copy's end leaves the stream running; any other end is the end of both.
            for task in done:
                task.result()
            return await streaming
        finally:
            copying.cancel()
            streaming.cancel()
            await asyncio.gather(copying, streaming, return_exceptions=True)

    async def _copy_then_set(self, copy: Copy, is_copied: asyncio.Event) -> None:
        await self._copy(copy)
        if self._opening.grows_later:
            raise _TablesWaitError
        is_copied.set()

    async def _stream(
        self, group: Group, sinks: Sinks, is_copied: asyncio.Event | None = None
    ) -> int | None:
        """Stream over as many connections as it takes; the LSN reached, or None when stopped."""
        settings = self._settings
        ledger = Ledger(
            ConfirmAfter(settings.confirm_after), settings.broker_sync_horizon_s, time.monotonic
        )
        waits = self._waits
        while not self._stop.is_set():
            opened_at = time.monotonic()
            try:
                session = await Session.open(
                    group, self._broker, settings, ledger, sinks, self._target_lsn
                )
                waits.started()
                self._target_lsn = session.target_lsn
                ending = await session.run(self._stop)
            except psycopg.Error as error:
                await waits.wait(failure(error, "the source failed"), self._stop)
            except PgfloError as error:
                if error.kind is errors.BROKER_WENT_BACK:
                    raise  # and look from the start at what it has of the copy
                if time.monotonic() - opened_at > CALM_S:
                    waits.calm()
                await waits.wait(error, self._stop)
            else:
                if ending is Ending.REACHED:
                    if is_copied is not None:
                        await first_of(is_copied.wait(), self._stop.wait())
                    return None if self._stop.is_set() else ledger.published_lsn
                if ending is Ending.STALLED:
                    await first_of(self._find_room(group), self._stop.wait())
                elif ending is Ending.SERVER_STOPS:
                    gone = PgfloError(errors.SOURCE_UNREACHABLE, "the source shut down")
                    await waits.wait(gone, self._stop)
        return None

    async def _find_room(self, group: Group) -> None:
        """Return when the change stream takes an envelope again."""
        ceiling_bytes = self._settings.nats.stream_max_bytes
        while True:
            state = await stream_state(self._broker, group.names.changes_stream)
            if state.bytes + 2 * MAX_BODY_BYTES < max(state.max_bytes, ceiling_bytes):
                return
            await asyncio.sleep(ROOM_LOOK_S)
