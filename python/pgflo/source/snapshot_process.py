"""The process that holds a copy's snapshot and the locks that keep it readable.

Upstream: `snapshot` starts it and hands it the slot's exported snapshot (or none: then it takes its
own). Downstream: copy processes import what this exports.
Invariant: while it lives, no table of the copy is rewritten or truncated. A snapshot does not
protect from that: after ALTER TABLE rewrote a table, or VACUUM FULL or TRUNCATE ran, a reader with
an older snapshot finds rows missing, without an error. What happened before the locks were taken is
found by comparing file numbers, and then the snapshot is of no use.

The locks are taken all together and in short attempts: whoever rewrites a table and waits for
another of ours would otherwise be the victim of a deadlock.

Who wants to rewrite a table meanwhile queues behind our locks, and whoever comes to the table from
then on queues behind him: a copy process, too, that has not read of it yet. It would wait for the
command, the command for us, and we for the copy. The server does not see that last step, so we show
it: by waiting for a moment for an advisory lock that every reader holds. The server then finds a
circle that it can break by letting the reader pass in the queue, and does.

It has a session of its own, and outlives the replicator, so that the next one can go on with the
copy. Who keeps it says so by an advisory lock at the source, from whatever machine; without its
parent and without such a lock it ends after the time it was given. Job and reports are lines of
JSON on its standard input and output; the end of its input is the end of its parent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql

from pgflo._core import lsn_parse
from pgflo.errors import PgfloError, describe
from pgflo.source.connection import application_name, connect_sync

LOCK_ATTEMPT = "400ms"
"""How long one attempt waits for the locks: less than the server's deadlock_timeout (1 s)."""

LOCK_PAUSE_S = 0.4
"""Seconds between two attempts."""

BLOCKED_REPORT_S = 5.0
"""Seconds between two reports of who is in the way."""

BEHIND_LOOK_S = 1.0
"""Seconds between two looks whether a reader waits behind a command that waits for us."""

PASS_MS = 200
"""Beyond the server's deadlock_timeout, after which it looks for circles and breaks them; a look
that comes later still is made up for by the next wait."""

READER_CLASS = 0x70676672
"""First half ("pgfr") of the advisory lock that readers share; the other is our backend's pid."""

KEEPER_CLASS = 0x7067666C
"""First half ("pgfl") of the advisory lock that keeps a holder; the other is its backend's pid."""

END = b"end\n"
"""Line by which a parent ends its holder."""

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

_MYSELF = """
SELECT backend_start::text FROM pg_catalog.pg_stat_activity WHERE pid = pg_backend_pid()
"""

_KEPT = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND classid = %s AND objid = pg_backend_pid() AND objsubid = 2
      AND granted
      AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
"""

_BEHIND = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks waits JOIN pg_catalog.pg_locks reads
        ON reads.pid = waits.pid
    WHERE waits.locktype = 'relation' AND NOT waits.granted AND reads.locktype = 'advisory'
      AND reads.classid = %s AND reads.objid = pg_backend_pid() AND reads.objsubid = 2
      AND reads.granted
      AND reads.database =
          (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
"""

_PATIENCE = """
SELECT set_config('lock_timeout', (setting::int + %s)::text, true)
FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'
"""


@dataclass(frozen=True, slots=True)
class HoldJob:
    """What the holder is to do; the first line of its input."""

    conninfo: str
    group: str
    tables: list[tuple[int, str, str]]
    """OID, schema and name."""
    snapshot: str | None
    linger_s: float


@dataclass(frozen=True, slots=True)
class HoldReport:
    """What the holder tells its parent, in this order: imported, blocked*, then ready or an end."""

    event: Literal["imported", "blocked", "ready", "rewritten", "failed"]
    backend_pid: int = 0
    backend_start: str = ""
    snapshot: str = ""
    lsn: int = 0
    text: str = ""
    heals: bool = True


def main() -> None:
    """Run the holder process: import, lock, compare, export, and then stay."""
    from setproctitle import setproctitle

    # A terminal's Ctrl-C is for the replicator.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = Parent()
    line = parent.read()
    if not line:
        return
    told = json.loads(line)
    job = HoldJob(**{**told, "tables": [tuple(table) for table in told["tables"]]})
    setproctitle(f"pgflo {job.group} snapshot")
    try:
        name = application_name(job.group, "snapshot")
        with connect_sync(job.conninfo, purpose=name) as conn:
            # Not before: the connection string may name files by relative paths.
            os.chdir("/")
            _begin(conn, job.snapshot)
            row = conn.execute(_MYSELF).fetchone()
            parent.tell(
                HoldReport(
                    "imported", conn.info.backend_pid, backend_start=str(row[0]) if row else ""
                )
            )
            if _lock(conn, parent, job.tables):
                _stay(conn, parent, job.linger_s)
    except psycopg.Error as error:
        heals = not isinstance(error, _NEEDS_OPERATOR)
        parent.tell(HoldReport("failed", text=describe(error), heals=heals))
    except PgfloError as error:
        parent.tell(HoldReport("failed", text=error.detail, heals=error.can_heal))


class Parent:
    """The process that started this one, as long as it lives."""

    def __init__(self) -> None:
        self.is_gone = False
        self._lines = sys.stdin.buffer
        self._inputs = selectors.DefaultSelector()
        self._inputs.register(self._lines, selectors.EVENT_READ)

    def read(self) -> bytes:
        """Give the next line; nothing when the parent is gone."""
        line = self._lines.readline()
        if not line:
            self.is_gone = True
            self._inputs.unregister(self._lines)
        return line

    def watch(self, descriptor: int) -> None:
        """Have `wait` end for this descriptor as well."""
        self._inputs.register(descriptor, selectors.EVENT_READ)

    def wait(self, limit_s: float | None) -> list[Any]:
        """Wait for input; tells from whom it is."""
        return [key.fileobj for key, _ in self._inputs.select(limit_s)]

    def has_line(self, limit_s: float) -> bool:
        """Wait for a line, or the end, of the parent."""
        return not self.is_gone and self._lines in self.wait(limit_s)

    def spoke(self, ready: list[Any]) -> bool:
        """Whether what `wait` gave names the parent."""
        return self._lines in ready

    def tell(self, report: HoldReport) -> None:
        """Report; nobody listens when the parent is gone."""
        with contextlib.suppress(OSError):
            sys.stdout.buffer.write(json.dumps(dataclasses.asdict(report)).encode() + b"\n")
            sys.stdout.buffer.flush()


def _begin(conn: psycopg.Connection[Any], snapshot: str | None) -> None:
    if conn.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
        conn.execute("SET transaction_timeout = 0")
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    if snapshot is not None:
        conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
    conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_ATTEMPT)))


def _lock(
    conn: psycopg.Connection[Any], parent: Parent, tables: list[tuple[int, str, str]]
) -> bool:
    """Lock the tables and export the snapshot; False when it is of no use, or to nobody."""
    oids = [oid for oid, _, _ in tables]
    names = sql.SQL(", ").join(
        sql.SQL("ONLY {}").format(sql.Identifier(*name)) for _, *name in tables
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
                parent.tell(HoldReport("blocked", text=_in_the_way(conn, oids)))
            if parent.has_line(LOCK_PAUSE_S):
                return False
            continue
        conn.execute("RELEASE SAVEPOINT before_locks")
        break
    rewritten = {row[0] for row in conn.execute(_FILES, (oids,)).fetchall()}
    found = conn.execute("SELECT pg_export_snapshot()").fetchone()
    if rewritten:
        text = ", ".join(f"{schema}.{name}" for oid, schema, name in tables if oid in rewritten)
        parent.tell(HoldReport("rewritten", text=text))
        return False
    parent.tell(HoldReport("ready", snapshot=found[0] if found else "", lsn=lsn))
    return True


def _in_the_way(conn: psycopg.Connection[Any], oids: list[int]) -> str:
    rows = conn.execute(_IN_THE_WAY, (oids,)).fetchall()
    return ", ".join(f"pid {pid} on {table}" for pid, table in rows) or "a session that just ended"


def _stay(conn: psycopg.Connection[Any], parent: Parent, linger_s: float) -> None:
    """Hold everything until the parent ends it, or nobody has kept it for `linger_s`.

    Any failed query ends it as well: with the transaction the locks are gone.
    """
    parent.watch(conn.fileno())
    kept_at = time.monotonic()
    while True:
        ready = parent.wait(min(BEHIND_LOOK_S, linger_s / 4) if parent.is_gone else BEHIND_LOOK_S)
        if parent.spoke(ready) and parent.read() == END:
            return
        # A notice passes; the end of the session fails here.
        if conn.execute(_BEHIND, (READER_CLASS,)).fetchone() == (True,):
            _let_pass(conn)
        now = time.monotonic()
        if not parent.is_gone:
            kept_at = now
            continue
        if linger_s and conn.execute(_KEPT, (KEEPER_CLASS,)).fetchone() == (True,):
            kept_at = now
        elif now - kept_at >= linger_s:
            return


def _let_pass(conn: psycopg.Connection[Any]) -> None:
    """Wait for the readers until the server has seen that they wait for us."""
    conn.execute("SAVEPOINT before_readers")
    conn.execute(_PATIENCE, (PASS_MS,))
    # A table of locks that is full passes as well; it is no reason to lose the snapshot.
    with contextlib.suppress(
        psycopg.errors.LockNotAvailable,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.OutOfMemory,
    ):
        conn.execute("SELECT pg_advisory_xact_lock(%s::int, pg_backend_pid())", (READER_CLASS,))
    # The lock, if they were gone meanwhile, and the setting go with it.
    conn.execute("ROLLBACK TO SAVEPOINT before_readers")
    conn.execute("RELEASE SAVEPOINT before_readers")


if __name__ == "__main__":
    main()
