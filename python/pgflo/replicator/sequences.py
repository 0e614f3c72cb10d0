"""Tells sinks where the source's sequences stand, in the group's record.

Upstream: `source.sequences`. Downstream: `record`, from which workers take it.
Invariant: a reading that is told covers every row that the source had committed by its LSN.

Why in the record and not in the change stream: numbers need no place among the changes. A number
that comes early does no harm, and only the latest reading counts, so there is nothing to be kept in
order or applied exactly once; in the stream it would wake idle groups and fill a stream that nobody
reads. The LSN tells a sink whether a reading covers what it has applied. At the end of a clean stop
there is a last reading, after the last change was published; and a sink that is about to stop says
so in its own record, and gets one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
import structlog

from pgflo.broker.records import SequenceRecord, SequencesRecord
from pgflo.errors import PgfloError, describe
from pgflo.source import sequences as source
from pgflo.source.connection import application_name, connect
from pgflo.source.patterns import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgflo.broker.record import Record
    from pgflo.replicator.sinks import Sinks

log = structlog.get_logger("pgflo.replicator")

INTERVAL_S = 10.0
"""Between two readings."""

LAST_WORD_S = 5.0
"""How long the last reading may take."""

A_CHUNK = 1000
"""Sequences in one key of the record, of about 200 bytes each: a message may hold 1 MiB."""


class Sequences:
    """The sequences of one incarnation."""

    def __init__(
        self, record: Record, incarnation: str, tables: Sequence[int], conninfo: str
    ) -> None:
        self._record = record
        self._incarnation = incarnation
        self._tables = tables
        self._conninfo = conninfo
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._told: tuple[SequenceRecord, ...] | None = None
        self._warned: set[tuple[str, str]] = set()

    async def run(self, sinks: Sinks) -> NoReturn:
        """Read and tell for ever. While source or broker are away, sinks keep what they have."""
        try:
            is_asked = False
            while True:
                sinks.leaving.clear()
                await self._try_to_tell(always=is_asked)
                try:
                    async with asyncio.timeout(INTERVAL_S):
                        await sinks.leaving.wait()
                except TimeoutError:
                    is_asked = False
                else:
                    is_asked = True
        finally:
            await self._close()

    async def tell_last(self) -> None:
        """Read and tell once more: everything that will be published is."""
        try:
            async with asyncio.timeout(LAST_WORD_S):
                is_told = await self._try_to_tell(always=True)
        except TimeoutError:
            is_told = False
        finally:
            await self._close()
        if not is_told:
            log.warning("the last values of the source's sequences are not told to the sinks")

    async def tell(self, conn: psycopg.AsyncConnection[Any], *, always: bool) -> None:
        """Read through `conn` and tell, if anything has changed or `always`.

        Raises `PgfloError` and `psycopg.Error`.
        """
        reading = await source.read(conn, self._tables)
        self._warn(reading)
        if reading.sequences == self._told and not always:
            return
        chunks = [
            SequencesRecord(
                self._incarnation,
                reading.lsn,
                list(reading.sequences[first : first + A_CHUNK]),
            )
            for first in range(0, max(1, len(reading.sequences)), A_CHUNK)
        ]
        await self._record.put_sequences(chunks)
        self._told = reading.sequences

    async def _try_to_tell(self, *, always: bool) -> bool:
        try:
            if self._conn is None:
                purpose = application_name(self._record.group_name, "sequences")
                self._conn = await connect(self._conninfo, purpose=purpose)
            await self.tell(self._conn, always=always)
        except psycopg.Error as error:
            log.debug("sequences are not read", cause=describe(error))
            await self._close()
            return False
        except PgfloError as error:
            log.debug("sequences are not told", cause=error.detail)
            return False
        return True

    async def _close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()

    def _warn(self, reading: source.Reading) -> None:
        for schema, name in set(reading.unreadable) - self._warned:
            self._warned.add((schema, name))
            log.warning(
                "a sequence is not followed: the role may not read it",
                sequence=f"{quote(schema)}.{quote(name)}",
                hint="GRANT SELECT ON SEQUENCE …, and USAGE ON its SCHEMA, to the source's role.",
            )
