"""Change stream → writer: reads envelopes, cuts epochs, keeps the writer busy, tells how far it is.

Upstream: a consumer of the change stream, located by the position that the writer found at the
destination. Downstream: the writer process; `report` and the consumer's acknowledgements, which say
only what is committed.
Invariant: at most two steps are under way, and between broker and writer no more than about three
epochs are in memory. An epoch is cut at once when the writer has nothing to do, else when it is
full: small epochs while there is little, large ones while there is much.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import structlog

from pgflo import _core, errors
from pgflo.broker.consumer import Consumer
from pgflo.broker.topology import last_envelope, locate
from pgflo.errors import PgfloError
from pgflo.replicator.race import first_of
from pgflo.worker import writer
from pgflo.worker.child import Child
from pgflo.worker.endings import goal_lsn
from pgflo.worker.epochs import Epochs
from pgflo.worker.lock_watch import LockWatch
from pgflo.worker.messages import Done, Ready, Step, encode

if TYPE_CHECKING:
    from pgflo._core import Header
    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.config.settings import WorkerSettings
    from pgflo.sinks.postgres.connection import Destination
    from pgflo.worker.epochs import Cut
    from pgflo.worker.group_view import GroupView
    from pgflo.worker.report import Report

log = structlog.get_logger("pgflo.worker")

STEPS_UNDER_WAY = 2
ACK_PAUSE_S = 0.25
DRAIN_S = 20.0
"""How long a stop waits for steps under way; they are rolled back after that."""


OPEN_LIMIT_S = 60.0
"""How long a transaction may stay open at the destination while nothing more of it comes."""

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


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A step that the writer has not answered yet."""

    commits: bool
    last: Header
    """Of its last envelope."""
    seq: int
    commit_time_us: int


class Dispatcher:
    """Applies the change stream through one writer. `run` is its whole life."""

    def __init__(
        self,
        broker: Broker,
        names: Names,
        settings: WorkerSettings,
        to: Destination,
        roots: dict[int, tuple[str, str] | None],
        start_lsn: int,
        view: GroupView,
        report: Report,
        *,
        whole_only: bool,
    ) -> None:
        """`whole_only`: begin no transaction whose end is not in the stream yet."""
        self._broker = broker
        self._names = names
        self._settings = settings
        self._to = to
        self._roots = roots
        self._start_lsn = start_lsn
        self._view = view
        self._report = report
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._whole_only = whole_only
        self._under_way: deque[UnderWay] = deque()
        self._has_open = False
        """A transaction is begun whose end was not sent yet."""
        self._received_at = 0.0
        self._answered_at = 0.0
        self._end_lsn = 0
        """Of what is committed."""
        self._goal: int | None = None
        self._committed_seq = 0
        self._wake = asyncio.Event()
        """There may be something to send."""
        self._has_room = asyncio.Event()
        self._moved = asyncio.Event()
        """Something was committed."""
        self._idle = asyncio.Event()
        """Nothing is under way."""
        self._reached = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Apply until the ending is reached or `stop` is set; then what is under way is finished.

        Raises `PgfloError`; whatever is not committed then is rolled back.
        """
        child = await Child.start(
            "writer", writer.main, self._to, self._roots, on_message=self._on_message
        )
        consumer = None
        try:
            ready = await first_of(_result(self._ready), _raise(child))
            epochs, consumer = await self._open(ready)
            if self._reached.is_set():
                return
            await first_of(
                self._read(consumer, epochs),
                self._send(child, epochs),
                self._acknowledge(consumer),
                self._reached.wait(),
                self._watch_open(),
                LockWatch(self._to, self._busy_s, self._report.blocked).run(),
                self._watch_final(),
                stop.wait(),
                _raise(child),
            )
            await self._drain(child)
        finally:
            await child.close(at_once=bool(self._under_way))
            if consumer is not None:
                await consumer.ack(self._committed_seq)
                await consumer.close()

    async def _open(self, ready: Ready) -> tuple[Epochs, Consumer]:
        """Find the place in the stream that the destination's position asks for."""
        if ready.incarnation != str(self._names.incarnation):
            raise PgfloError(
                errors.GROUP_SUPERSEDED, "another worker has begun another incarnation here"
            )
        position = (ready.commit_lsn, ready.ordinal)
        self._report.moved(position, ready.end_lsn, 0, 0)
        self._report.phase("streaming")
        self._goal = await goal_lsn(self._settings, self._broker, self._names)
        self._end_lsn = ready.end_lsn
        self._see_goal()
        seq = await locate(self._broker, self._names.changes_stream, position)
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
            is_start=position == (self._start_lsn, 0),
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
            header = epochs.put(message.data, message.seq)
            self._wake.set()
            if epochs.is_full:
                self._has_room.clear()
            if self._goal is not None and header.end_lsn >= self._goal:
                await asyncio.Event().wait()  # what follows is beyond the ending

    async def _send(self, child: Child, epochs: Epochs) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (cut := self._next(epochs)) is not None:
                if not epochs.is_full:
                    self._has_room.set()
                if not cut.commits and not self._has_open and self._whole_only:
                    await self._wait_whole(cut)
                self._has_open = not cut.commits
                envelopes = [envelope for unit in cut.units for envelope in unit.envelopes]
                is_waiting = not self._under_way
                if is_waiting:
                    self._answered_at = time.monotonic()
                self._under_way.append(
                    UnderWay(cut.commits, cut.last, cut.units[-1].seq, cut.commit_time_us)
                )
                self._idle.clear()
                head = encode(Step(len(envelopes), cut.commits))
                await child.send([head, *envelopes], is_waiting=is_waiting)

    def _next(self, epochs: Epochs) -> Cut | None:
        if len(self._under_way) >= STEPS_UNDER_WAY or (self._under_way and not epochs.is_full):
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
            if self._has_open and not self._under_way and silence_s > OPEN_LIMIT_S:
                raise RestMissingError

    def _busy_s(self) -> float:
        """Give how long the writer has left us without an answer."""
        return time.monotonic() - self._answered_at if self._under_way else 0.0

    async def _watch_final(self) -> None:
        """End where the replicator ended by itself, if the ending asked for lies beyond that."""
        view = await self._view.wait(lambda now: now.group.final_lsn is not None)
        if self._goal is not None and view.group.final_lsn is not None:
            self._goal = min(self._goal, view.group.final_lsn)
            self._see_goal()
        await asyncio.Event().wait()

    def _on_message(self, message: Ready | Done) -> None:
        if isinstance(message, Ready):
            if not self._ready.done():
                self._ready.set_result(message)
            return
        step = self._under_way.popleft()
        self._answered_at = time.monotonic()
        if not self._under_way:
            self._idle.set()
        if message.committed:
            last = step.last
            self._committed_seq = step.seq
            self._report.moved(
                (last.commit_lsn, last.ordinal), last.end_lsn, step.commit_time_us, message.changes
            )
            self._moved.set()
            self._end_lsn = last.end_lsn
            self._see_goal()
        self._wake.set()

    def _see_goal(self) -> None:
        if self._goal is not None and self._end_lsn >= self._goal:
            self._reached.set()

    async def _acknowledge(self, consumer: Consumer) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            await consumer.ack(self._committed_seq)
            await asyncio.sleep(ACK_PAUSE_S)

    async def _drain(self, child: Child) -> None:
        """Wait for what is under way, unless it waits for the rest of a transaction itself."""
        if not self._under_way or not self._under_way[-1].commits:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                await first_of(self._idle.wait(), _raise(child))
        except TimeoutError:
            log.warning("changes under way took too long and are rolled back; they come again")


async def _result(future: asyncio.Future[Ready]) -> Ready:
    return await future


async def _raise(child: Child) -> NoReturn:
    raise await asyncio.shield(child.failure)
