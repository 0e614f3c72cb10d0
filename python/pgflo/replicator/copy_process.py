"""A copy process: reads ranges in the shared snapshot and publishes them through its own lane.

Upstream: the copy's coordinator hands out one range at a time over a pipe. Downstream: the copy
stream.
Invariant: a range is reported done only when the broker has stored its final part, and every
envelope of an attempt carries the attempt's number: what a broken attempt left behind is never
mistaken for another's. Rows pass through in blocks, from libpq to the broker, without being looked
at.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import generators, pq, sql

from pgflo import _core, errors
from pgflo._core import PUMP_END, PUMP_FAILED, PUMP_IDLE
from pgflo.broker import connection as broker_connection
from pgflo.broker.lane_publisher import LaneBroken, LanePublisher
from pgflo.broker.names import Names
from pgflo.errors import PgfloError, describe
from pgflo.source.connection import application_name, connect, is_disconnect
from pgflo.source.pump import open_pump
from pgflo.source.shared_snapshot import import_snapshot

if TYPE_CHECKING:
    import uuid
    from multiprocessing.connection import Connection

    from pgflo.broker.records import SnapshotRecord
    from pgflo.config.settings import NatsSettings

BLOCK_BYTES = 1024 * 1024
"""Rows taken from libpq before the broker's client gets its turn."""

GATHER_MS = 1
"""Wait this long for a block to grow: reading whatever is there would cost a call per 20 KB."""

TARGET_BODY_BYTES = 256 * 1024
"""Body size of a copy envelope: nats-py carries twice as much per second at 256 KiB as at 1 MiB."""

MAX_BODY_BYTES = 896 * 1024
REPORT_INTERVAL_S = 0.25

IDLE_S = 0.5
"""Without a range for so long, a process keeps no lock."""


@dataclass(frozen=True, slots=True)
class CopyJob:
    """What a copy process needs to know once."""

    conninfo: str
    group: str
    incarnation: uuid.UUID
    nats: NatsSettings
    held: SnapshotRecord
    lane: int
    log_payload: dict[str, str | bool]


@dataclass(frozen=True, slots=True)
class RangeTask:
    """One range to copy: `bounds` are its first block and the one behind it; None means all."""

    relation_oid: int
    schema: str
    name: str
    columns: tuple[str, ...]
    range_no: int
    bounds: tuple[int, int | None] | None
    attempt: int
    is_binary: bool


@dataclass(frozen=True, slots=True)
class RangeReport:
    """What a copy process tells.

    `moved`: how far the attempt is; `done`: the range is stored; `broken`: the attempt is lost, the
    process waits for another; `gone`: the process ends, a new one may do better; `failed`: none
    would.
    """

    event: Literal["moved", "done", "broken", "gone", "failed"]
    rows: int = 0
    bytes: int = 0
    seq: int = 0
    """Done: sequence of the final part in the copy stream."""
    text: str = ""
    code: str = ""


def run_copy_process(pipe: Connection, job: CopyJob) -> None:
    """Be a copy process until the pipe closes. Entry point of `multiprocessing`."""
    import uvloop
    from setproctitle import setproctitle

    from pgflo import logs
    from pgflo.supervisor.lifeline import die_with_parent

    die_with_parent()
    logs.configure_child(job.log_payload)
    setproctitle(f"pgflo {job.group} copy {job.lane}")
    uvloop.run(_run(pipe, job))


async def _run(pipe: Connection, job: CopyJob) -> None:
    try:
        await _serve(pipe, job)
    except psycopg.Error as error:
        # The snapshot may be gone, or just this session: a new process finds out.
        event: Literal["gone", "failed"] = "gone" if is_disconnect(error) else "failed"
        pipe.send(RangeReport(event, text=describe(error), code=errors.SOURCE_FAILED.code))
    except PgfloError as error:
        event = "gone" if error.can_heal else "failed"
        pipe.send(RangeReport(event, text=error.detail, code=error.kind.code))


async def _serve(pipe: Connection, job: CopyJob) -> None:
    purpose = application_name(job.group, f"copy {job.lane}")
    broker = await broker_connection.connect(job.nats, name=purpose)
    try:
        names = Names(job.group, job.incarnation)
        lane = await LanePublisher.open(broker, names, job.nats)
        async with await connect(job.conninfo, purpose=purpose) as conn:
            await _prepare(conn)
            copier = _Copier(conn, lane, pipe, job, names, broker.max_payload_bytes)
            while (task := await _next_task(pipe, copier)) is not None:
                await copier.copy(task)
        await lane.close()
    finally:
        await broker.close()


async def _prepare(conn: psycopg.AsyncConnection[Any]) -> None:
    if conn.info.server_version >= 170000:
        await conn.execute("SET transaction_timeout = 0")
    await conn.execute("SET jit = off")


async def _enter_snapshot(conn: psycopg.AsyncConnection[Any], held: SnapshotRecord) -> None:
    await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    await import_snapshot(conn, held)


async def _next_task(pipe: Connection, copier: _Copier) -> RangeTask | None:
    try:
        async with asyncio.timeout(IDLE_S):
            await _readable(pipe.fileno())
    except TimeoutError:
        await copier.rest()
        await _readable(pipe.fileno())
    try:
        task: RangeTask | None = pipe.recv()
    except EOFError:
        return None
    return task


async def _readable(descriptor: int) -> None:
    """Wait until a descriptor has something to read."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


class _Copier:
    """Copies ranges, one after the other, over one source session and one lane."""

    def __init__(
        self,
        conn: psycopg.AsyncConnection[Any],
        lane: LanePublisher,
        pipe: Connection,
        job: CopyJob,
        names: Names,
        max_payload_bytes: int,
    ) -> None:
        self._conn = conn
        self._lane = lane
        self._pipe = pipe
        self._job = job
        self._subject = names.copy_subject(job.lane)
        self._max_body_bytes = min(MAX_BODY_BYTES, max_payload_bytes - _core.HEADER_BYTES)
        self._told_at = 0.0

    async def copy(self, task: RangeTask) -> None:
        """Copy one range and report it. A broken lane ends the attempt, not the process."""
        packer = _core.CopyPacker(
            self._job.incarnation.bytes,
            task.relation_oid,
            self._job.held.lsn,
            task.range_no,
            task.attempt,
            target_body_bytes=min(TARGET_BODY_BYTES, self._max_body_bytes),
            max_body_bytes=self._max_body_bytes,
            binary=task.is_binary,
        )
        if self._conn.info.transaction_status == pq.TransactionStatus.IDLE:
            await _enter_snapshot(self._conn, self._job.held)
        await self._start(task)
        try:
            await self._move_rows(packer)
            await self._lane.publish(packer.finish(), self._subject)
            await self._lane.drain()
        except LaneBroken as error:
            await self._give_up()
            self._pipe.send(RangeReport("broken", text=str(error)))
        else:
            seq = self._lane.stored_seq
            self._pipe.send(RangeReport("done", rows=packer.rows, bytes=packer.bytes, seq=seq))

    async def rest(self) -> None:
        """End the transaction, and with it our locks, until there is another range.

        Who waits for one of them, to make an index anew perhaps, may be in the way of those whom
        we wait for. While there are ranges it is kept: the next one would queue behind him.
        """
        if self._conn.info.transaction_status != pq.TransactionStatus.IDLE:
            await self._conn.execute("ROLLBACK")

    async def _start(self, task: RangeTask) -> None:
        pgconn = self._conn.pgconn
        pgconn.send_query(_copy_statement(task).as_bytes(self._conn))
        results = await self._conn.wait(generators.execute(pgconn))
        if results[-1].status != pq.ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(results[-1])

    async def _move_rows(self, packer: _core.CopyPacker) -> None:
        """Move everything that the COPY gives into the lane, in blocks."""
        pump = open_pump(self._conn)
        state = PUMP_IDLE
        while state not in (PUMP_END, PUMP_FAILED):
            block, row_count, state = pump.drain_rows(BLOCK_BYTES, GATHER_MS)
            if block:
                for envelope in packer.feed(block, row_count):
                    await self._lane.publish(envelope, self._subject)
                self._tell_progress(packer)
                await asyncio.sleep(0)
            elif state == PUMP_IDLE:
                await _readable(self._conn.pgconn.socket)
        results = await self._conn.wait(generators.fetch_many(self._conn.pgconn))
        if not results or results[-1].status != pq.ExecStatus.COMMAND_OK:
            if results:
                raise psycopg.errors.error_from_result(results[-1])
            raise psycopg.OperationalError("the session broke")

    async def _give_up(self) -> None:
        """Cancel the COPY that still runs and end its transaction."""
        if self._conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            await self._conn.cancel_safe()
            pump, state = open_pump(self._conn), PUMP_IDLE
            while state not in (PUMP_END, PUMP_FAILED):
                _, _, state = pump.drain_rows(BLOCK_BYTES, 0)
                if state == PUMP_IDLE:
                    await _readable(self._conn.pgconn.socket)
            await self._conn.wait(generators.fetch_many(self._conn.pgconn))
        await self._conn.execute("ROLLBACK")

    def _tell_progress(self, packer: _core.CopyPacker) -> None:
        now = time.monotonic()
        if now - self._told_at >= REPORT_INTERVAL_S:
            self._told_at = now
            self._pipe.send(RangeReport("moved", rows=packer.rows, bytes=packer.bytes))


def _copy_statement(task: RangeTask) -> sql.Composed:
    columns = sql.SQL(", ").join(map(sql.Identifier, task.columns))
    query = sql.SQL("SELECT {} FROM ONLY {}").format(
        columns, sql.Identifier(task.schema, task.name)
    )
    if task.bounds is not None:
        first, behind = task.bounds
        query += sql.SQL(" WHERE ctid >= {}::tid").format(sql.Literal(f"({first},0)"))
        if behind is not None:
            query += sql.SQL(" AND ctid < {}::tid").format(sql.Literal(f"({behind},0)"))
    form = sql.SQL("binary" if task.is_binary else "text")
    return sql.SQL("COPY ({}) TO STDOUT (FORMAT {})").format(query, form)
