"""Change stream → writers: reads envelopes, cuts epochs, keeps writers busy, tells how far it is.

Upstream: a consumer of the change stream, located by the position that the writers found at the
destination. Downstream: `spreading`, which hands epochs to writers; `report` and the consumer's
acknowledgements, which say only what all shards have committed.
Invariant: at most two epochs are under way, and between broker and writers no more than about three
are in memory. An epoch is cut at once when the writers have nothing to do, else when it is full:
small epochs while there is little, large ones while there is much.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NoReturn

import structlog

from pgflo import _core, errors
from pgflo.broker.consumer import Consumer
from pgflo.broker.topology import last_envelope, locate
from pgflo.errors import PgfloError
from pgflo.supervisor.race import first_of
from pgflo.worker.endings import goal_lsn
from pgflo.worker.epochs import Epochs
from pgflo.worker.lock_watch import LockWatch

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.broker.records import GroupRecord
    from pgflo.config.settings import WorkerSettings
    from pgflo.worker.epochs import Cut
    from pgflo.worker.group_view import GroupView
    from pgflo.worker.report import Report
    from pgflo.worker.shard import Mark, Reached
    from pgflo.worker.shards import Shards
    from pgflo.worker.spreading import Spreading

log = structlog.get_logger("pgflo.worker")

STEPS_UNDER_WAY = 2
ACK_PAUSE_S = 0.25
DRAIN_S = 20.0
"""How long a stop waits for steps under way; they are rolled back after that."""


OPEN_LIMIT_S = 60.0
"""How long a transaction may stay open at the destination while nothing more of it comes."""

LAYOUT_PATIENCE_S = 10.0
"""How long the record may be behind the change stream before that is said, again and again."""

WHOLE_LOOK_S = 1.0
"""Pause between two looks at whether the end of a transaction is in the stream."""


class RestMissingError(PgfloError):
    """The rest of a large transaction did not come; next time wait until all of it is there."""

    def __init__(self) -> None:
        super().__init__(
            errors.SINK_INTERRUPTED,
            f"the rest of a large transaction did not come within {OPEN_LIMIT_S:g} s; it is rolled"
            " back so that its locks go",
            hint="Look whether the replicator runs: `pgflo status --group GROUP`.",
        )


class Dispatcher:
    """Applies the change stream through the writers of one life. `run` is its whole life."""

    def __init__(
        self,
        broker: Broker,
        names: Names,
        settings: WorkerSettings,
        shards: Shards,
        spreading: Spreading,
        group: GroupRecord,
        view: GroupView,
        report: Report,
        *,
        whole_only: bool,
    ) -> None:
        """`group` is what this life began with; `view` shows what has become of it.

        `whole_only`: begin no transaction whose end is not in the stream yet.
        """
        self._broker = broker
        self._names = names
        self._settings = settings
        self._shards = shards
        self._spreading = spreading
        self._group = group
        self._view = view
        self._report = report
        self._whole_only = whole_only
        self._received_at = 0.0
        self._end_lsn = 0
        """Of what is committed."""
        self._goal: int | None = None
        self._committed_seq = 0
        self._wake = asyncio.Event()
        """There may be something to send."""
        self._has_room = asyncio.Event()
        self._moved = asyncio.Event()
        """Something was committed."""
        self._reached = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Apply until the ending is reached, the spreading has finished or `stop` is set.

        What is under way is finished then. Raises `PgfloError`; whatever is not committed then is
        rolled back.
        """
        consumer = None
        try:
            watch = LockWatch(self._shards.to, self._shards.busy_s, self._report.blocked)
            await first_of(self._shards.start(self._spreading.writers()), watch.run())
            epochs, consumer = await self._open(self._shards.reached)
            if self._reached.is_set():
                return
            self._shards.on_reached = self._on_reached
            self._shards.on_rules = self._report.ruled
            self._shards.on_moved = self._tell_shards
            self._shards.on_answer = self._wake.set
            await first_of(
                self._read(consumer, epochs),
                self._send(epochs),
                self._acknowledge(consumer),
                self._reached.wait(),
                self._spreading.finished(),
                self._shards.keep_level(),
                self._watch_open(),
                watch.run(),
                self._watch_final(),
                stop.wait(),
                self._shards.failed(),
            )
            await self._drain()
        finally:
            await self._shards.close()
            if consumer is not None:
                await consumer.ack(self._committed_seq)
                await consumer.close()

    async def _open(self, found: Mark) -> tuple[Epochs, Consumer]:
        """Find the place in the stream that the destination's position asks for."""
        position = found.position
        self._report.moved(position, found.end_lsn, 0, 0)
        self._tell_shards()
        self._report.phase("streaming")
        self._goal = await goal_lsn(self._settings, self._broker, self._names)
        if self._goal is not None:
            # Before that, tables that were copied later are ahead of the others.
            self._goal = max(self._goal, *self._shards.to.snapshots.values(), 0)
        self._end_lsn = found.end_lsn
        self._see_goal()
        # A barrier may have been committed inside a source transaction, whose end comes later.
        is_open = position[1] > 0 and found.end_lsn <= position[0]
        before = (position[0], position[1] - 1) if is_open else position
        seq = await locate(self._broker, self._names.changes_stream, before)
        log.info(
            "applying changes",
            behind=f"{_core.lsn_format(position[0])}:{position[1]}",
            stream_seq=seq,
        )
        epochs = Epochs(
            self._names.incarnation,
            position,
            epoch_bytes=self._settings.epoch_bytes,
            epoch_changes=self._settings.batch_rows,
            is_start=position == (self._group.start_lsn, 0),
            is_open=is_open,
        )
        consumer = await Consumer.open(
            self._broker, self._names.changes_stream, f"sink_{self._settings.sink}", seq
        )
        self._has_room.set()
        return epochs, consumer

    async def _read(self, consumer: Consumer, epochs: Epochs) -> None:
        while True:
            await self._has_room.wait()
            message = await consumer.next(None)
            if message is None:
                continue
            self._received_at = time.monotonic()
            if _core.read_header(message.data, verify=False).layout > self._group.layout:
                # Made when other tables were the group's: the record says so, and a new life
                # begins with them. Until then nothing of it is applied.
                await self._wait_for_layout()
            header = epochs.put(message.data, message.seq)
            self._wake.set()
            if epochs.is_full:
                self._has_room.clear()
            # All parts of a body tell its end: only the last one has reached it.
            is_whole = header.part + 1 == header.parts
            if self._goal is not None and is_whole and header.end_lsn >= self._goal:
                await asyncio.Event().wait()  # what follows is beyond the ending

    async def _wait_for_layout(self) -> NoReturn:
        """Wait for the end of this life; say so if it does not come."""
        while True:
            await asyncio.sleep(LAYOUT_PATIENCE_S)
            log.warning(
                "changes wait for the group's record to name the tables that they belong to",
                group=self._names.group,
                hint="Look whether the replicator runs: `pgflo status --group GROUP`.",
            )

    async def _send(self, epochs: Epochs) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (cut := self._next(epochs)) is not None:
                if not epochs.is_full:
                    self._has_room.set()
                if not cut.commits and not self._shards.has_open and self._whole_only:
                    await self._wait_whole(cut)
                await self._spreading.send(cut)

    def _next(self, epochs: Epochs) -> Cut | None:
        under_way = self._shards.under_way
        if len(under_way) >= STEPS_UNDER_WAY or (under_way and not epochs.is_full):
            return None
        return epochs.cut()

    async def _wait_whole(self, cut: Cut) -> None:
        """Return when the stream holds the end of the transaction that `cut` leaves open."""
        while True:
            last = await last_envelope(self._broker, self._names.changes_stream)
            if last is None or not last.header.transaction_open:
                return
            if last.header.commit_lsn != cut.last.commit_lsn:
                return
            await asyncio.sleep(WHOLE_LOOK_S)

    async def _watch_open(self) -> NoReturn:
        """Raise when a transaction stands open for too long."""
        while True:
            await asyncio.sleep(OPEN_LIMIT_S / 4)
            silence_s = time.monotonic() - self._received_at
            if self._shards.has_open and self._shards.is_idle and silence_s > OPEN_LIMIT_S:
                raise RestMissingError

    async def _watch_final(self) -> None:
        """End where the replicator ended by itself, if the ending asked for lies beyond that."""
        view = await self._view.wait(lambda now: now.group.final_lsn is not None)
        if self._goal is not None and view.group.final_lsn is not None:
            self._goal = min(self._goal, view.group.final_lsn)
            self._see_goal()
        await asyncio.Event().wait()

    def _on_reached(self, reached: Reached) -> None:
        mark = reached.mark
        self._committed_seq = reached.seq
        self._report.moved(mark.position, mark.end_lsn, reached.commit_time_us, reached.changes)
        self._moved.set()
        self._end_lsn = mark.end_lsn
        self._see_goal()

    def _tell_shards(self) -> None:
        self._report.shards(self._shards.stored)

    def _see_goal(self) -> None:
        if self._goal is not None and self._end_lsn >= self._goal:
            self._reached.set()

    async def _acknowledge(self, consumer: Consumer) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            await consumer.ack(self._committed_seq)
            await asyncio.sleep(ACK_PAUSE_S)

    async def _drain(self) -> None:
        """Wait for what is under way, unless it waits for the rest of a transaction itself."""
        if self._shards.has_open:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                await first_of(self._settle(), self._shards.failed())
        except TimeoutError:
            log.warning("changes under way took too long and are rolled back; they come again")

    async def _settle(self) -> None:
        await self._shards.wait_idle()
        await self._shards.level()
        await self._shards.wait_idle()
