"""The snapshot of a copy, and the locks that keep it readable: held by a process of its own.

Upstream: the slot's exported snapshot (or none: then the holder takes its own). Downstream: copy
processes import what the holder exports.
Invariant: while the holder lives, no table of the copy is rewritten or truncated. A snapshot does
not protect from that: after ALTER TABLE rewrote a table, or VACUUM FULL or TRUNCATE ran, a reader
with an older snapshot finds rows missing, without an error. What happened before the locks were
taken is found by comparing file numbers, and then the snapshot is of no use.

The locks are taken all together and in short attempts: whoever rewrites a table and waits for
another of ours would otherwise be the victim of a deadlock.
"""

from __future__ import annotations

import multiprocessing.connection
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psycopg
import structlog
from psycopg import sql

from pgflo import errors, logs
from pgflo._core import lsn_parse
from pgflo.errors import PgfloError, describe
from pgflo.source.child import Child
from pgflo.source.connection import application_name, connect_sync

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection

log = structlog.get_logger("pgflo.source")

LOCK_ATTEMPT = "400ms"
"""How long one attempt waits for the locks: less than the server's deadlock_timeout (1 s)."""

LOCK_PAUSE_S = 0.4
"""Seconds between two attempts."""

BLOCKED_REPORT_S = 5.0
"""Seconds between two reports of who is in the way."""

TRANSACTION_TIMEOUT_SINCE = 170000

_NEEDS_OPERATOR = (psycopg.errors.InsufficientPrivilege, psycopg.errors.OutOfMemory)
"""No right to lock, or more tables than max_locks_per_transaction has room for: no retry helps."""

_FILES = """
SELECT oid::int8 FROM pg_catalog.pg_class
WHERE oid = ANY (%s::oid[]) AND relfilenode IS DISTINCT FROM pg_relation_filenode(oid)
"""
# The row comes from the snapshot, the function looks at what is now.

_IN_THE_WAY = """
SELECT DISTINCT l.pid, l.relation::regclass::text FROM pg_catalog.pg_locks l
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.relation = ANY (%s::oid[])
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
ORDER BY 1 LIMIT 5
"""

_QUEUED = """
SELECT l.pid, l.relation::regclass::text FROM pg_catalog.pg_locks l
WHERE l.locktype = 'relation' AND NOT l.granted AND %s = ANY (pg_blocking_pids(l.pid)) LIMIT 5
"""


@dataclass(frozen=True, slots=True)
class _Report:
    """What the holder tells its parent, in this order: imported, blocked*, then ready or an end."""

    event: Literal["imported", "blocked", "ready", "rewritten", "failed"]
    pid: int = 0
    snapshot: str = ""
    lsn: int = 0
    text: str = ""
    heals: bool = True


class SnapshotHolder:
    """The parent's handle of the holder process."""

    def __init__(self, child: Child[_Report]) -> None:
        self._child = child
        self.backend_pid = 0
        self.snapshot = ""
        """Name under which copy processes import it."""
        self.lsn = 0
        """Position of the source's WAL when the holder took its own snapshot."""

    @classmethod
    async def start(
        cls, conninfo: str, group: str, tables: Mapping[int, tuple[str, str]], snapshot: str | None
    ) -> SnapshotHolder:
        """Start the process and wait until it has imported `snapshot` (or taken one, for None).

        Afterwards the session that exported `snapshot` is free for other commands.
        """
        args = (conninfo, group, dict(tables), snapshot, logs.child_payload())
        holder = cls(Child(_hold, args, f"pgflo {group} snapshot"))
        try:
            report = await holder._expect("imported")
        except BaseException:
            await holder.stop()
            raise
        holder.backend_pid = report.pid
        return holder

    async def lock(self) -> None:
        """Wait until every table is locked and known to be the one that the snapshot saw.

        Reports who is in the way. Raises `PgfloError`: TABLE_REWRITTEN (take another snapshot),
        COPY_BROKEN.
        """
        report = await self._expect("ready")
        self.snapshot = report.snapshot
        self.lsn = report.lsn

    async def broken(self) -> PgfloError:
        """Wait until the holder is lost, which no copy survives, and tell why."""
        while (report := await self._child.reports.get()) is not None:
            if report.event == "failed":
                return PgfloError(errors.COPY_BROKEN, f"the snapshot is lost: {report.text}")
        return PgfloError(errors.COPY_BROKEN, "the snapshot is lost: its process ended")

    async def report_queued(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Name the sessions that wait behind our locks; everyone behind them waits as well."""
        rows = await (await conn.execute(_QUEUED, (self.backend_pid,))).fetchall()
        for pid, table in rows:
            log.warning(
                "a command waits for the end of the copy, and others wait behind it",
                pid=pid,
                table=table,
                snapshot_pid=self.backend_pid,
            )

    async def stop(self) -> None:
        """Let the snapshot and the locks go. Returns when the process is gone."""
        await self._child.stop()

    async def _expect(self, event: str) -> _Report:
        while True:
            report = await self._child.reports.get()
            if report is None:
                raise PgfloError(errors.COPY_BROKEN, "the process that holds the snapshot ended")
            if report.event == event:
                return report
            if report.event == "blocked":
                log.warning("the copy waits for a lock", blocked_by=report.text)
            elif report.event == "rewritten":
                raise PgfloError(
                    errors.TABLE_REWRITTEN,
                    f"{report.text} was rewritten or truncated after the snapshot was taken",
                )
            else:
                kind = errors.COPY_BROKEN if report.heals else errors.SOURCE_FAILED
                raise PgfloError(kind, f"cannot hold the snapshot: {report.text}")


def _hold(
    pipe: Connection,
    conninfo: str,
    group: str,
    tables: dict[int, tuple[str, str]],
    snapshot: str | None,
    log_payload: dict[str, str | bool],
) -> None:
    """Run the holder process: import, lock, compare, export, and then wait for the parent."""
    from setproctitle import setproctitle

    from pgflo.supervisor.lifeline import die_with_parent

    die_with_parent()
    logs.configure_child(log_payload)
    setproctitle(f"pgflo {group} snapshot")
    try:
        with connect_sync(conninfo, purpose=application_name(group, "snapshot")) as conn:
            _begin(conn, snapshot)
            pipe.send(_Report("imported", pid=conn.info.backend_pid))
            if _lock(conn, pipe, tables):
                _wait_for_end(conn, pipe)
    except psycopg.Error as error:
        heals = not isinstance(error, _NEEDS_OPERATOR)
        pipe.send(_Report("failed", text=describe(error), heals=heals))
    except PgfloError as error:
        pipe.send(_Report("failed", text=error.detail))


def _begin(conn: psycopg.Connection[Any], snapshot: str | None) -> None:
    if conn.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
        conn.execute("SET transaction_timeout = 0")
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    if snapshot is not None:
        conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
    conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_ATTEMPT)))


def _lock(
    conn: psycopg.Connection[Any], pipe: Connection, tables: dict[int, tuple[str, str]]
) -> bool:
    """Lock the tables and export the snapshot; False when a table was rewritten meanwhile."""
    oids = list(tables)
    names = sql.SQL(", ").join(
        sql.SQL("ONLY {}").format(sql.Identifier(*name)) for name in tables.values()
    )
    # The first query fixes a snapshot of our own, before the locks: so both ways end in the same
    # check.
    row = conn.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    lsn = lsn_parse(row[0]) if row else 0
    report_at = time.monotonic()
    while tables:
        conn.execute("SAVEPOINT before_locks")
        try:
            conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names))
        except psycopg.errors.LockNotAvailable:
            conn.execute("ROLLBACK TO SAVEPOINT before_locks")
            if time.monotonic() >= report_at:
                report_at = time.monotonic() + BLOCKED_REPORT_S
                pipe.send(_Report("blocked", text=_in_the_way(conn, oids)))
            if pipe.poll(LOCK_PAUSE_S):
                return False
            continue
        conn.execute("RELEASE SAVEPOINT before_locks")
        break
    rewritten = {row[0] for row in conn.execute(_FILES, (oids,)).fetchall()}
    found = conn.execute("SELECT pg_export_snapshot()").fetchone()
    if rewritten:
        text = ", ".join(".".join(tables[oid]) for oid in sorted(rewritten))
        pipe.send(_Report("rewritten", text=text))
        return False
    pipe.send(_Report("ready", snapshot=found[0] if found else "", lsn=lsn))
    return True


def _in_the_way(conn: psycopg.Connection[Any], oids: list[int]) -> str:
    rows = conn.execute(_IN_THE_WAY, (oids,)).fetchall()
    return ", ".join(f"pid {pid} on {table}" for pid, table in rows) or "a session that just ended"


def _wait_for_end(conn: psycopg.Connection[Any], pipe: Connection) -> None:
    """Wait until the parent closes the pipe; report the loss of the session if that comes first."""
    ready = multiprocessing.connection.wait([pipe, conn.fileno()])
    if pipe not in ready:
        conn.execute("SELECT 1")  # The server says why it ends the session, or the query fails.
        pipe.send(_Report("failed", text="the server said something unexpected"))
