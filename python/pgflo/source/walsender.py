"""One logical walsender session: started, drained, answered, and left at once when asked.

Upstream: a slot that was checked. Downstream: the replicator's intake, which feeds what is drained
to the assembler and decides which LSN may be told as flushed.
Invariant: the interpreter never blocks on the socket. Reading may pause for as long as it likes
(back-pressure); status messages go out all the same, which keeps the server from giving up on us.
"""

from __future__ import annotations

import asyncio
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
from psycopg import generators, pq, sql

from pgflo import errors
from pgflo._core import PUMP_END, PUMP_FAILED, PUMP_IDLE, lsn_format, lsn_parse
from pgflo.errors import PgfloError
from pgflo.source.connection import application_name, connect, failure
from pgflo.source.pump import CopyPump, open_pump

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger("pgflo.source")

FINISH_S = 3.0
"""Seconds for the polite goodbye (CopyDone both ways). After that the socket is closed as it is."""

DISCARD_BYTES = 1024 * 1024
"""Bytes read at once while waiting for the server's goodbye."""

POSTGRES_EPOCH_S = 946_684_800
"""2000-01-01 UTC in Unix time, where PostgreSQL's clock starts."""

_TIMEOUT = """
SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'
"""
# Asked where it applies: database, role and DSN may each set another one.

_STATUS = struct.Struct("!cQQQqB")
"""Standby status update: 'r', written, flushed, applied, clock in µs, whether to answer at once."""


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """What IDENTIFY_SYSTEM says."""

    system_id: str
    timeline: int
    flushed_lsn: int
    database: str


class WalSender:
    """A walsender session of a group. One task reads and waits; any task may send a status."""

    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._conn = conn
        self._pgconn = conn.pgconn
        self._pump: CopyPump | None = None
        self._loop = asyncio.get_running_loop()
        self._watching = False
        self._flushing = False
        conn.add_notice_handler(_tell_notice)

    @classmethod
    async def open(cls, conninfo: str, group: str) -> WalSender:
        """Connect. Raises `PgfloError` as `connection.connect` does."""
        conn = await connect(conninfo, purpose=application_name(group), replication=True)
        return cls(conn)

    @property
    def connection(self) -> psycopg.AsyncConnection[Any]:
        """The session, for commands before `start`."""
        return self._conn

    async def identify(self) -> SystemIdentity:
        """Ask which system, timeline and database this is, and how far its WAL is flushed."""
        try:
            row = await (await self._conn.execute("IDENTIFY_SYSTEM")).fetchone()
        except psycopg.Error as error:
            raise failure(error, "the source does not identify itself") from error
        if row is None:
            raise PgfloError(errors.SOURCE_FAILED, "the source does not identify itself")
        system_id, timeline, flushed, database = row
        return SystemIdentity(str(system_id), int(timeline), lsn_parse(flushed), database)

    async def timeout_s(self) -> float:
        """Ask how long the server bears silence in this session; 0: for ever."""
        try:
            row = await (await self._conn.execute(_TIMEOUT)).fetchone()
        except psycopg.Error as error:
            raise failure(error, "the source does not tell its wal_sender_timeout") from error
        return row[0] / 1000 if row else 0.0

    async def start(
        self, slot: str, publications: list[str], start_lsn: int, options: Mapping[str, str]
    ) -> None:
        """Start streaming commits that end after `start_lsn`. Raises `PgfloError` when refused."""
        given = {**options, "publication_names": ",".join(f'"{name}"' for name in publications)}
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL {} ({})").format(
            sql.Identifier(slot),
            sql.SQL(lsn_format(start_lsn)),
            sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(name), sql.Literal(value))
                for name, value in given.items()
            ),
        )
        try:
            self._pgconn.send_query(command.as_bytes(self._conn))
            results = await self._conn.wait(generators.execute(self._pgconn))
            if results[-1].status != pq.ExecStatus.COPY_BOTH:
                raise psycopg.errors.error_from_result(results[-1])
        except psycopg.Error as error:
            raise failure(error, "the source does not start replication") from error
        self._pump = open_pump(self._conn)

    def drain(self, max_bytes: int) -> tuple[bytes, bool]:
        """Take what has arrived: a block for the assembler, and whether there is more.

        Raises `PgfloError` when the server ended the stream or the connection broke, after what
        came before was delivered.
        """
        if self._pump is None:
            raise RuntimeError("drain() before start()")
        block, state = self._pump.drain(max_bytes, 0)
        if state in (PUMP_END, PUMP_FAILED) and not block:
            raise self._ending()
        return block, state != PUMP_IDLE

    def watch(self, wake: asyncio.Event) -> None:
        """Set `wake` once when there is something to read. The last caller's event counts."""
        self._watching = True
        self._loop.add_reader(self._pgconn.socket, self._on_readable, wake)

    def send_status(self, *, received_lsn: int, confirmed_lsn: int, ask: bool = False) -> None:
        """Tell the server what was received and what it may forget; `ask` for an answer.

        Never blocks. While an earlier message is not fully sent, the new one is left out: the next
        one says the same. Raises `PgfloError` when the connection is gone.
        """
        if self._flushing:
            return
        clock_us = int((time.time() - POSTGRES_EPOCH_S) * 1_000_000)
        message = _STATUS.pack(b"r", received_lsn, confirmed_lsn, confirmed_lsn, clock_us, ask)
        try:
            self._pgconn.put_copy_data(message)
            self._flush()
        except psycopg.Error as error:
            raise failure(error, "the walsender session broke") from error

    async def finish(self) -> None:
        """End streaming: the slot is free when this returns. What still arrives is dropped."""
        try:
            with suppress(psycopg.Error, TimeoutError, PgfloError):
                async with asyncio.timeout(FINISH_S):
                    await self._say_goodbye()
        finally:
            self._unwatch()
            await self._conn.close()

    async def _say_goodbye(self) -> None:
        if self._pump is None or self._pgconn.status != pq.ConnStatus.OK:
            return
        self._pgconn.put_copy_end()
        self._flush()
        state = PUMP_IDLE
        wake = asyncio.Event()
        while state not in (PUMP_END, PUMP_FAILED):
            _, state = self._pump.drain(DISCARD_BYTES, 0)
            if state == PUMP_IDLE:
                self.watch(wake)
                await wake.wait()
                wake.clear()
            await asyncio.sleep(0)
        self._unwatch()
        if state == PUMP_END:
            await self._conn.wait(generators.fetch_many(self._pgconn))

    def _ending(self) -> PgfloError:
        """Tell why the stream ended: by the server's error, or by a broken connection."""
        self._unwatch()
        try:
            while result := self._pgconn.get_result():
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    raise psycopg.errors.error_from_result(result)
        except psycopg.Error as error:
            return failure(error, "the source ended the stream")
        return PgfloError(errors.SOURCE_UNREACHABLE, "the source ended the stream")

    def _on_readable(self, wake: asyncio.Event) -> None:
        # Level-triggered: without this the loop would spin while reading is paused.
        self._loop.remove_reader(self._pgconn.socket)
        self._watching = False
        wake.set()

    def _unwatch(self) -> None:
        if self._watching:
            self._loop.remove_reader(self._pgconn.socket)
            self._watching = False
        if self._flushing:
            self._loop.remove_writer(self._pgconn.socket)
            self._flushing = False

    def _flush(self) -> None:
        left = self._pgconn.flush() != 0
        if left and not self._flushing:
            self._loop.add_writer(self._pgconn.socket, self._on_writable)
        elif self._flushing and not left:
            self._loop.remove_writer(self._pgconn.socket)
        self._flushing = left

    def _on_writable(self) -> None:
        try:
            self._flush()
        except psycopg.Error:
            # The reading side meets the same broken connection and tells it.
            self._loop.remove_writer(self._pgconn.socket)
            self._flushing = False


def _tell_notice(diagnostic: psycopg.errors.Diagnostic) -> None:
    if diagnostic.severity_nonlocalized in ("WARNING", None):
        log.warning("the source warns", sqlstate=diagnostic.sqlstate)
