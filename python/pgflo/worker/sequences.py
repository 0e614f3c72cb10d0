"""Keeps the destination's sequences where the source's are, as long as the worker lives.

Upstream: the replicator's readings in the group's record. Downstream: `sinks.postgres.sequences`,
through one connection of its own.
Invariant: before a worker says that it has stopped, its sequences cover every row that it has
applied, if a replicator is there to say where they are. Nothing here ends a worker.

They are set again from time to time although nothing has changed at the source: a TRUNCATE that
restarts an identity comes with the changes, after a reading that was taken later.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, NoReturn

import psycopg
import structlog

from pgflo.broker.lease import is_held
from pgflo.errors import PgfloError, describe
from pgflo.sinks.postgres.sequences import Sequences as Setter

if TYPE_CHECKING:
    from psycopg.rows import TupleRow

    from pgflo.broker.record import Record
    from pgflo.broker.records import SequenceRecord
    from pgflo.sinks.postgres.connection import Destination
    from pgflo.worker.group_view import GroupView
    from pgflo.worker.report import Report

log = structlog.get_logger("pgflo.worker")

INTERVAL_S = 10.0
"""Between two rounds when the source tells nothing new."""

SHORTEST_PAUSE_S = 1.0

LAST_WORD_S = 3.0
"""How long to wait for a reading that covers what was applied last."""


class Sequences:
    """The sequences of one life of the worker."""

    def __init__(self, record: Record, to: Destination, incarnation: str, view: GroupView) -> None:
        self._record = record
        self._to = to
        self._incarnation = incarnation
        self._view = view
        self._setter = Setter()
        self._conn: psycopg.Connection[TupleRow] | None = None
        self._turn = threading.Lock()
        """Whose turn it is to use the connection: a thread outlives the task that waited for it."""
        self._is_over = False
        self._lsn = 0

    async def follow(self) -> NoReturn:
        """Set them whenever the source tells something new, and now and then."""
        while True:
            await self.set()
            await asyncio.sleep(SHORTEST_PAUSE_S)
            await self._wait_for_news(INTERVAL_S)

    async def set(self) -> None:
        """Set them to what was read last."""
        self._view.sequences_told.clear()
        try:
            sequences = await self._read()
            moved = await asyncio.to_thread(self._advance, sequences) if sequences else 0
        except PgfloError as error:
            log.debug("sequences are not set", cause=error.detail)
        except psycopg.Error as error:
            log.debug("sequences are not set", cause=describe(error))
            await asyncio.to_thread(self._close)
        else:
            if moved:
                log.debug("sequences set", moved=moved)

    async def finish(self, report: Report) -> None:
        """Set them for the last time, to values that cover everything that was applied."""
        try:
            async with asyncio.timeout(LAST_WORD_S):
                now = await self._view.wait(lambda _: True)
                snapshots = [table.snapshot_lsn for table in now.tables.values()]
                applied_lsn = max(report.end_lsn, *snapshots, 0)
                await self._read()
                if self._lsn < applied_lsn and await is_held(self._record, "replicator"):
                    report.phase("stopping")
                    await report.flush()
                    while self._lsn < applied_lsn:
                        await self._wait_for_news(LAST_WORD_S)
                        self._view.sequences_told.clear()
                        await self._read()
        except TimeoutError:
            log.warning("the replicator has not said where the sequences are now")
        except PgfloError as error:
            log.debug("sequences are not read", cause=error.detail)
        await self.set()
        await self.close()

    async def close(self) -> None:
        """Close the connection, if there is one: at once, or when the thread that uses it is done.

        Nothing is set after that.
        """
        self._is_over = True
        await asyncio.to_thread(self._close_when_over)

    async def _wait_for_news(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._view.sequences_told.wait()
        except TimeoutError:
            return

    async def _read(self) -> list[SequenceRecord]:
        """Read what was told; nothing if that is of another incarnation, or older than before."""
        chunks = [
            chunk
            for chunk in await self._record.sequences()
            if chunk.incarnation == self._incarnation
        ]
        lsn = min((chunk.lsn for chunk in chunks), default=0)
        if lsn < self._lsn:
            return []
        self._lsn = lsn
        return [one for chunk in chunks for one in chunk.sequences]

    def _advance(self, sequences: list[SequenceRecord]) -> int:
        try:
            with self._turn:
                if self._is_over:
                    return 0
                if self._conn is None:
                    self._conn = self._to.connect("sequences")
                return self._setter.advance(self._conn, sequences)
        finally:
            self._close_when_over()

    def _close_when_over(self) -> None:
        if self._is_over and self._turn.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._turn.release()

    def _close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()
