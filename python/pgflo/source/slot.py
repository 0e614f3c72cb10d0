"""The replication slot of a group: made with an exported snapshot, checked before every start.

Upstream: preflight and publication have succeeded. Downstream: walsender streams from it, snapshot
imports what its creation exported.
Invariant: a slot is never made again silently: what it held is lost with it, and that is an error.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
from psycopg import sql

from pgflo import errors
from pgflo._core import lsn_format, lsn_parse
from pgflo.errors import PgfloError
from pgflo.source.connection import failure
from pgflo.source.patterns import quote

if TYPE_CHECKING:
    from collections.abc import Awaitable

log = structlog.get_logger("pgflo.source")

BLOCKER_REPORT_S = 5.0
"""Seconds between two reports of the transactions that the creation of a slot waits for."""

LET_GO_S = 10.0
"""Seconds that a reader of ours which lost its client may take to release the slot."""

_STATE = """
SELECT slot_name, plugin, database, active_pid, confirmed_flush_lsn::text, wal_status
FROM pg_catalog.pg_replication_slots WHERE slot_name = %s
"""

_BLOCKERS = """
SELECT pid, coalesce(usename, backend_type) AS who, coalesce(datname, '-') AS database,
       state, extract(epoch FROM now() - xact_start)::int AS open_s
FROM pg_catalog.pg_stat_activity
WHERE backend_xid IS NOT NULL ORDER BY xact_start LIMIT 5
"""

_END_OLD_READER = """
SELECT pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
JOIN pg_catalog.pg_replication_slots s ON s.active_pid = a.pid
WHERE s.slot_name = %s AND a.application_name = %s
"""


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of `pg_replication_slots`."""

    name: str
    active_pid: int | None
    confirmed_lsn: int
    lost: bool


@dataclass(frozen=True, slots=True)
class CreatedSlot:
    """A new slot. Its snapshot lives until the session's next command or its close."""

    consistent_lsn: int
    snapshot: str


async def state(conn: psycopg.AsyncConnection[Any], name: str) -> SlotState | None:
    """Read how the slot is; None when there is none of that name."""
    row = await (await conn.execute(_STATE, (name,))).fetchone()
    if row is None:
        return None
    _, plugin, _, active_pid, confirmed, wal_status = row
    if plugin != "pgoutput":
        raise PgfloError(
            errors.SLOT_MISSING,
            f"slot {quote(name)} belongs to another program",
            hint="Choose another --group, or drop that slot at the source.",
        )
    lsn = lsn_parse(confirmed) if confirmed else 0
    return SlotState(name, active_pid, lsn, lost=wal_status == "lost")


async def create(
    replication: psycopg.AsyncConnection[Any],
    conn: psycopg.AsyncConnection[Any],
    name: str,
    *,
    is_temporary: bool = False,
) -> CreatedSlot:
    """Make the slot on a walsender session; `conn` tells meanwhile whom it waits for.

    A temporary one goes with that session.

    The server waits for every transaction that runs anywhere in the cluster. The snapshot stays
    importable until `replication` runs another command or closes.
    """
    command = sql.SQL(
        "CREATE_REPLICATION_SLOT {} {} LOGICAL pgoutput (SNAPSHOT 'export')"
        if replication.info.server_version >= 150000
        else "CREATE_REPLICATION_SLOT {} {} LOGICAL pgoutput EXPORT_SNAPSHOT"
    ).format(sql.Identifier(name), sql.SQL("TEMPORARY" if is_temporary else ""))
    try:
        cursor = await _reporting_blockers(replication.execute(command), conn)
        row = await cursor.fetchone()
    except psycopg.Error as error:
        raise failure(error, f"cannot create slot {quote(name)}") from error
    if row is None:
        raise PgfloError(errors.SOURCE_FAILED, f"slot {quote(name)} was created without an answer")
    _, consistent_point, snapshot, _ = row
    return CreatedSlot(lsn_parse(consistent_point), snapshot)


async def drop(conn: psycopg.AsyncConnection[Any], name: str) -> bool:
    """Drop the slot if there is one, ending a session of this group that still reads it."""
    found = await state(conn, name)
    if found is None:
        return False
    await end_old_reader(conn, name)
    try:
        await conn.execute("SELECT pg_drop_replication_slot(%s)", (name,))
    except psycopg.errors.ObjectInUse as error:
        raise PgfloError(
            errors.SLOT_ACTIVE, f"slot {quote(name)} is read by another session"
        ) from error
    except psycopg.errors.UndefinedObject:
        return False
    return True


async def check(conn: psycopg.AsyncConnection[Any], name: str, published_lsn: int) -> SlotState:
    """Raise unless the slot can go on behind `published_lsn`, the end of the change stream.

    Raises `PgfloError`: SLOT_MISSING, SLOT_LOST, SLOT_AHEAD (the broker lost what was confirmed),
    SLOT_ACTIVE. A session of this group that still holds the slot is ended: the caller has the
    group's lease, so it can only be the rest of a dead connection.
    """
    found = await state(conn, name)
    if found is None:
        raise PgfloError(errors.SLOT_MISSING, f"slot {quote(name)} is gone")
    if found.lost:
        raise PgfloError(errors.SLOT_LOST, f"slot {quote(name)} lost WAL it needed")
    if found.confirmed_lsn > published_lsn:
        raise PgfloError(
            errors.SLOT_AHEAD,
            f"slot {quote(name)} stands at {lsn_format(found.confirmed_lsn)}, but the change "
            f"stream ends at {lsn_format(published_lsn)}: the changes between are gone",
        )
    if found.active_pid is not None and not await end_old_reader(conn, name):
        raise PgfloError(
            errors.SLOT_ACTIVE,
            f"slot {quote(name)} is read by the session with pid {found.active_pid}",
            pid=found.active_pid,
        )
    return found


async def end_old_reader(conn: psycopg.AsyncConnection[Any], name: str) -> bool:
    """End the session that reads the slot if it is one of this group; False if it still reads."""
    deadline = asyncio.get_running_loop().time() + LET_GO_S
    await conn.execute(_END_OLD_READER, (name, name))
    while asyncio.get_running_loop().time() < deadline:
        found = await state(conn, name)
        if found is None or found.active_pid is None:
            return True
        await asyncio.sleep(0.1)
    return False


async def _reporting_blockers(
    work: Awaitable[psycopg.AsyncCursor[Any]], conn: psycopg.AsyncConnection[Any]
) -> psycopg.AsyncCursor[Any]:
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=BLOCKER_REPORT_S)
            if done:
                return await task
            for pid, who, database, activity, open_s in await (
                await conn.execute(_BLOCKERS)
            ).fetchall():
                log.warning(
                    "the slot waits for a running transaction to end",
                    pid=pid,
                    role=who,
                    database=database,
                    state=activity,
                    open_s=open_s,
                )
    finally:
        task.cancel()
