"""A held snapshot in use: proof that it still holds, and the word that somebody needs it.

Upstream: the group's record says who holds it, since this replicator or a former one made it.
Downstream: the holder's session at the source, seen from a session of our own.
Invariant: what `holds` has said yes to was protected from rewrites without a break up to then: the
holder takes its locks once, so a lock that is still there was never gone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
from psycopg import sql

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.source.connection import application_name, connect, is_disconnect
from pgflo.source.snapshot_process import KEEPER_CLASS, READER_CLASS

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgflo.broker.records import SnapshotRecord

log = structlog.get_logger("pgflo.source")

LOOK_S = 1.0
"""Seconds between two looks whether the holder is still there."""

GONE_S = 10.0
"""How long a holder that was told to end may take."""

_HOLDS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
        WHERE pid = %(pid)s AND backend_start::text = %(start)s AND application_name = %(name)s)
    AND (SELECT count(DISTINCT relation) FROM pg_catalog.pg_locks
         WHERE pid = %(pid)s AND locktype = 'relation' AND mode = 'AccessShareLock' AND granted
           AND database = (SELECT oid FROM pg_catalog.pg_database
                           WHERE datname = current_database())
           AND relation = ANY (%(oids)s::oid[])) = cardinality(%(oids)s::oid[])
"""

_QUEUED = """
SELECT l.pid, l.relation::regclass::text FROM pg_catalog.pg_locks l
WHERE l.locktype = 'relation' AND NOT l.granted AND %s = ANY (pg_blocking_pids(l.pid))
ORDER BY l.waitstart LIMIT 5
"""

_HOLDERS = """
SELECT pid FROM pg_catalog.pg_stat_activity
WHERE application_name = %s AND datname = current_database() AND usename = current_user
"""


class SharedSnapshot:
    """A snapshot that is held by a process of this or a former replicator. `open` finds it."""

    def __init__(
        self, conn: psycopg.AsyncConnection[Any], group: str, held: SnapshotRecord
    ) -> None:
        self._conn = conn
        self._group = group
        self.held = held

    @classmethod
    async def open(cls, conninfo: str, group: str, held: SnapshotRecord) -> SharedSnapshot | None:
        """Keep the snapshot, if it is still there; None if it is lost.

        From here on its holder stays as long as our session does.
        """
        conn = await connect(conninfo, purpose=application_name(group, "watch"))
        try:
            await conn.execute(
                "SELECT pg_advisory_lock_shared(%s::int, %s::int)", (KEEPER_CLASS, held.backend_pid)
            )
            shared = cls(conn, group, held)
            # Looked at behind the lock: a holder that ends all the same is found lost later.
            if await shared.holds(()) and await shared._can_be_imported():
                return shared
        except BaseException:
            await conn.close()
            raise
        await conn.close()
        return None

    async def holds(self, oids: Collection[int]) -> bool:
        """Whether the holder still has its locks on these tables."""
        name = application_name(self._group, "snapshot")
        held = self.held
        row = await (
            await self._conn.execute(
                _HOLDS,
                {
                    "pid": held.backend_pid,
                    "start": held.backend_start,
                    "name": name,
                    "oids": list(set(oids)),
                },
            )
        ).fetchone()
        return row == (True,)

    async def lost(self) -> PgfloError:
        """Wait until the holder is gone, which ends what is copied under it."""
        while True:
            if not await self.holds(()):
                return snapshot_lost()
            await asyncio.sleep(LOOK_S)

    async def report_queued(self) -> tuple[str, ...]:
        """Name the sessions that wait behind the locks; everyone behind them waits as well."""
        rows = await (await self._conn.execute(_QUEUED, (self.held.backend_pid,))).fetchall()
        for pid, table in rows:
            log.warning(
                "a command waits for the end of the copy, and others wait behind it",
                pid=pid,
                table=table,
                snapshot_pid=self.held.backend_pid,
            )
        return tuple(f"pid {pid} on {table}" for pid, table in rows)

    async def close(self) -> None:
        """Keep it no longer; the holder stays for its linger."""
        await self._conn.close()

    async def _can_be_imported(self) -> bool:
        try:
            async with self._conn.transaction():
                await self._conn.execute(
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
                )
                await import_snapshot(self._conn, self.held)
        except psycopg.Error as error:
            if is_disconnect(error):
                raise
            return False
        return True


async def import_snapshot(conn: psycopg.AsyncConnection[Any], held: SnapshotRecord) -> None:
    """Read under a held snapshot until the end of the transaction that has just begun.

    A command that waits for the holder's locks keeps no such transaction from its tables for long.
    """
    name = sql.Literal(held.name)
    await conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(name))
    await conn.execute(
        "SELECT pg_advisory_xact_lock_shared(%s::int, %s::int)", (READER_CLASS, held.backend_pid)
    )


async def look_past(conn: psycopg.AsyncConnection[Any], held: SnapshotRecord) -> None:
    """Let no command that waits for the holder's locks keep this session from its tables."""
    await conn.execute(
        "SELECT pg_advisory_lock_shared(%s::int, %s::int)", (READER_CLASS, held.backend_pid)
    )


def snapshot_lost() -> PgfloError:
    """Say that the holder is gone."""
    return PgfloError(errors.COPY_BROKEN, "the snapshot is lost: its session ended")


async def holders(conn: psycopg.AsyncConnection[Any], group: str) -> list[int]:
    """Give the sessions that hold a snapshot of this group."""
    cursor = await conn.execute(_HOLDERS, (application_name(group, "snapshot"),))
    return [row[0] for row in await cursor.fetchall()]


async def end_holders(conn: psycopg.AsyncConnection[Any], group: str) -> int:
    """End every holder of this group, and wait until they are gone; tells how many there were."""
    ended = await holders(conn, group)
    for pid in ended:
        await conn.execute("SELECT pg_terminate_backend(%s, %s)", (pid, int(GONE_S * 1000)))
    return len(ended)
