"""A copy writer process: takes one copy lane at a time and loads its ranges.

Upstream: `copy_lanes` gives it lanes through a pipe; the lane's envelopes come straight from the
broker. Downstream: the sink's `RangeWriter`, one commit per range.
Invariant: the parts of an attempt are loaded in order and without a gap, or not at all. What is not
wanted (another incarnation or snapshot, a known range, an attempt with a gap, a repeated part) is
dropped. So is what copy processes of a replicator that is gone still bring once a newer one has
written to the lane: between the parts of an attempt it would break that off.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog
import uvloop
from setproctitle import setproctitle

from pgflo import _core, errors, logs
from pgflo.broker.connection import connect
from pgflo.broker.consumer import Consumer
from pgflo.broker.records import run_of
from pgflo.errors import PgfloError
from pgflo.sinks.contract import Range
from pgflo.supervisor.lifeline import die_with_parent
from pgflo.worker.filtering import rules_error
from pgflo.worker.messages import Copied, Failed, Lane, Left, Message, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection

    from pgflo._core import Header
    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.config.settings import NatsSettings
    from pgflo.sinks.contract import RangeWriter, Sink, Target

log = structlog.get_logger("pgflo.worker")

T = TypeVar("T")

PART_PATIENCE_S = 10.0
"""How long a range waits for its next part. Then its publisher has a trouble that may take long:
the range is rolled back so that its locks go, and begun again from its first part."""


def main(
    pipe: Connection,
    log_settings: Mapping[str, str | bool],
    number: int,
    to: Sink,
    nats: NatsSettings,
    names: Names,
    targets: Mapping[int, Target],
) -> None:
    """Run until the pipe ends or something fails."""
    die_with_parent()
    setproctitle(f"pgflo {to.group} copy-writer {number}")
    logs.configure_child(log_settings)
    structlog.contextvars.bind_contextvars(group=to.group, sink=to.sink, copy_writer=number)
    try:
        uvloop.run(_serve(pipe, number, to, nats, names, targets))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the worker wants us to end; a range under way is rolled back
    except PgfloError as error:
        pipe.send_bytes(encode(Failed.of(error)))
    except _core.RulesError as error:
        pipe.send_bytes(encode(Failed.of(rules_error(error))))
    except _core.CoreError as error:
        detail = f"an envelope of the copy cannot be read: {error}"
        pipe.send_bytes(encode(Failed.of(PgfloError(errors.SINK_CHAIN_GAP, detail))))


async def _serve(
    pipe: Connection,
    number: int,
    to: Sink,
    nats: NatsSettings,
    names: Names,
    targets: Mapping[int, Target],
) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="destination") as thread:
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(thread, to.open_ranges, number, names.incarnation)
        ranges = await opening
        broker = await connect(nats, name=f"pgflo {to.group} copy-writer {number}")
        try:
            worker = CopyWriter(pipe, thread, ranges, broker, names, to.sink, targets)
            while True:
                command = await asyncio.to_thread(pipe.recv_bytes)
                message = decode(command)
                if isinstance(message, Lane):
                    await worker.read(message)
        finally:
            await broker.close()
            await loop.run_in_executor(thread, ranges.close)


class CopyWriter:
    """Reads lanes. One attempt at a range is open at a time."""

    def __init__(
        self,
        pipe: Connection,
        thread: ThreadPoolExecutor,
        ranges: RangeWriter,
        broker: Broker,
        names: Names,
        sink: str,
        targets: Mapping[int, Target],
    ) -> None:
        self._pipe = pipe
        self._thread = thread
        self._ranges = ranges
        self._broker = broker
        self._names = names
        self._sink = sink
        self._targets = targets
        self._open: Range | None = None
        self._next_part = 0
        self._dropped: Range | None = None
        """An attempt whose parts are not wanted."""
        self._dropped_is_applied = False
        self._newest_run = 0
        """Of the copy, among those that have written to the present lane."""

    async def read(self, lane: Lane) -> None:
        """Load the lane's ranges until nothing comes for a while; then give it back."""
        self._dropped, self._newest_run = None, 0
        consumer = await Consumer.open(
            self._broker,
            self._names.copy_stream,
            f"sink_{self._sink}_lane_{lane.lane}",
            lane.start_seq,
            subject=self._names.copy_subject(lane.lane),
        )
        try:
            while True:
                patience_s = PART_PATIENCE_S if self._open else lane.patience_s
                message = await consumer.next(patience_s)
                if message is None:
                    break
                await self._take(lane.lane, message.data, message.seq, consumer)
        finally:
            if self._open is not None:
                log.warning("a range waits for its next part; rolled back", lane=lane.lane)
                await self._abandon()
            await consumer.close()
        self._tell(Left(lane.lane))

    async def _take(self, lane: int, data: bytes, seq: int, consumer: Consumer) -> None:
        """Deal with one part."""
        header = _core.read_header(data)
        if header.kind != _core.KIND_COPY or header.incarnation != self._names.incarnation.bytes:
            return
        if run_of(header.attempt) < self._newest_run:
            return
        self._newest_run = run_of(header.attempt)
        this = Range(header.relation_oid, header.snapshot_lsn, header.range_no, header.attempt)
        if self._open is not None and this != self._open:
            log.info("a range is begun again elsewhere; rolled back", range_no=self._open.range_no)
            await self._abandon()
        if self._open is None and this != self._dropped:
            await self._begin(this, header)
        if this == self._dropped:
            if header.final and self._dropped_is_applied:
                await consumer.ack(seq)
                self._tell(_copied(lane, seq, this, rows=header.total_rows, is_new=False))
            return
        if header.part_no < self._next_part:
            return  # sent again by the publisher
        if header.part_no > self._next_part:
            log.warning("a part of a range is missing; waiting for it to be sent again", lane=lane)
            await self._abandon()
            self._drop(this, is_applied=False)
            return
        await self._in_thread(self._ranges.write, memoryview(data)[_core.HEADER_BYTES :])
        self._next_part += 1
        if header.final:
            await self._commit(lane, seq, this, header.total_rows)
            await consumer.ack(seq)

    async def _begin(self, this: Range, header: Header) -> None:
        target = self._targets.get(this.oid)
        if target is None:
            raise PgfloError(
                errors.GROUP_CHANGED,
                f"a copy lane brings rows of table {this.oid}, not one of ours",
            )
        if this.snapshot_lsn < target.snapshot_lsn:
            # Of a copy that was given up: nobody needs it, as if it were applied.
            self._drop(this, is_applied=True)
        elif this.snapshot_lsn != target.snapshot_lsn or header.part_no != 0:
            # Of a copy that we are to hear of; or the rest of an attempt whose beginning is not to
            # be had.
            self._drop(this, is_applied=False)
        elif await self._in_thread(self._ranges.is_known, this):
            self._drop(this, is_applied=True)
        else:
            begin = partial(self._ranges.begin, is_binary=header.binary)
            await self._in_thread(begin, this, target)
            self._open, self._next_part = this, 0

    async def _commit(self, lane: int, seq: int, this: Range, total_rows: int) -> None:
        self._open = None
        counts = await self._in_thread(self._ranges.commit, total_rows)
        copied = _copied(lane, seq, this, rows=total_rows, is_new=True)
        self._tell(replace(copied, rules=list(counts)))

    async def _abandon(self) -> None:
        self._open = None
        await self._in_thread(self._ranges.abandon)

    def _drop(self, this: Range, *, is_applied: bool) -> None:
        self._dropped, self._dropped_is_applied = this, is_applied

    def _tell(self, message: Message) -> None:
        self._pipe.send_bytes(encode(message))

    async def _in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        """Run a call on the connection in the one thread that owns it, while the loop receives."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(call, *arguments))


def _copied(lane: int, seq: int, this: Range, *, rows: int, is_new: bool) -> Copied:
    return Copied(lane, seq, this.oid, this.snapshot_lsn, this.range_no, rows, is_new)
