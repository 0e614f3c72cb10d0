"""Which sessions of this sink wait at the destination: for a lock and who holds it, for a standby.

Upstream: `worker.lock_watch`, through a connection of its own. Downstream: the server's lock table
and its list of sessions.
Invariant: of another session's query only the command is told, one or two words out of a fixed
list. The rest may hold row values or passwords, and cutting literals out of any dialect of quoting
is not safe enough; names of sessions, roles and tables are what an operator needs to act.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    from pgflo.sinks.postgres.connection import Destination

WAITS_QUERY = """
SELECT l.pid, extract(epoch FROM clock_timestamp() - l.waitstart)::float8,
    coalesce(l.relation, (SELECT min(t.relation::oid::int8)::oid FROM pg_locks t
        WHERE t.pid = l.pid AND t.locktype = 'tuple'))::regclass::text,
    blocker.pid, b.usename, b.application_name,
    CASE b.wait_event WHEN 'SyncRep' THEN 'waiting for a synchronous standby'
        ELSE coalesce(b.state, b.backend_type) END,
    extract(epoch FROM clock_timestamp() - b.xact_start)::float8, b.query
FROM pg_stat_activity a
JOIN pg_locks l ON l.pid = a.pid AND NOT l.granted
CROSS JOIN LATERAL (SELECT DISTINCT unnest(pg_blocking_pids(a.pid))) AS blocker(pid)
LEFT JOIN pg_stat_activity b ON b.pid = blocker.pid
WHERE starts_with(a.application_name, %s)
    AND l.waitstart <= clock_timestamp() - make_interval(secs => %s)
ORDER BY l.pid, blocker.pid
"""

STANDBY_WAITS_QUERY = """
SELECT pid, extract(epoch FROM clock_timestamp() - query_start)::float8,
    current_setting('synchronous_standby_names')
FROM pg_stat_activity
WHERE starts_with(application_name, %s) AND wait_event = 'SyncRep'
    AND query_start <= clock_timestamp() - make_interval(secs => %s)
ORDER BY pid
"""
"""A commit begins to wait as soon as it is sent, or nearly so: nothing tells since when."""

COMMAND = re.compile(
    r"(?:ALTER|CREATE|DROP|REFRESH|REINDEX)\s+(?:DATABASE|INDEX|MATERIALIZED|SCHEMA|TABLE|VIEW)\b"
    r"|(?:ALTER|ANALYZE|BEGIN|CALL|CLUSTER|COMMENT|COMMIT|COPY|CREATE|DECLARE|DELETE|DO|DROP|END"
    r"|EXECUTE|EXPLAIN|FETCH|GRANT|INSERT|LOCK|MERGE|PREPARE|REFRESH|REINDEX|RELEASE|REVOKE"
    r"|ROLLBACK|SAVEPOINT|SELECT|SET|SHOW|START|TABLE|TRUNCATE|UPDATE|VACUUM|VALUES|WITH)\b",
    re.IGNORECASE,
)
SPACE = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)+", re.DOTALL)
"""Blanks and comments, which may stand before a command."""

PREPARED_TRANSACTION_PID = 0
"""What the server gives for a transaction that no session holds."""


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that another one waits for. Fields that our role may not see are empty."""

    pid: int
    role: str
    application: str
    state: str
    command: str
    transaction_s: float | None

    def __str__(self) -> str:
        if self.pid == PREPARED_TRANSACTION_PID:
            return "a prepared transaction (pg_prepared_xacts)"
        who = f"pid {self.pid}"
        if self.role:
            who += f" of {self.role}"
        if self.application:
            who += f" ({self.application})"
        if not self.state:
            return f"{who}, which only pg_read_all_stats may look at"
        age = "" if self.transaction_s is None else f" for {self.transaction_s:.0f} s"
        return f"{who}, {self.state}{age}, last command {self.command}"


@dataclass(frozen=True, slots=True)
class LockWait:
    """A session of ours that waits. It waits for all of `blockers`, or for those before it."""

    pid: int
    seconds: float
    relation: str
    """Of which table the lock is, quoted as in SQL; empty if the server does not tell."""
    blockers: tuple[Blocker, ...]

    def __str__(self) -> str:
        what = f"a lock on {self.relation}" if self.relation else "a lock"
        return f"{what}, held by {'; '.join(map(str, self.blockers))}"


@dataclass(frozen=True, slots=True)
class StandbyWait:
    """A session of this sink whose commit is done and waits for a standby to have it as well."""

    pid: int
    seconds: float
    standbys: str
    """The server's setting `synchronous_standby_names`."""

    def __str__(self) -> str:
        return (
            "a synchronous standby to confirm a commit"
            f" (synchronous_standby_names = '{self.standbys}')"
        )


def standby_waits(
    conn: psycopg.Connection[TupleRow], to: Destination, at_least_s: float
) -> list[StandbyWait]:
    """Find commits that take `at_least_s` seconds already for a standby.

    Those of former runs too: they hold what this run has to take over.
    """
    rows = conn.execute(STANDBY_WAITS_QUERY, (to.sink_prefix, at_least_s))
    return [StandbyWait(pid, wait_s, standbys) for pid, wait_s, standbys in rows]


def lock_waits(
    conn: psycopg.Connection[TupleRow], to: Destination, at_least_s: float
) -> list[LockWait]:
    """Find the waits of this run's sessions that take `at_least_s` seconds already."""
    rows = conn.execute(WAITS_QUERY, (to.session_prefix, at_least_s))
    waits: dict[int, LockWait] = {}
    for waiting_pid, wait_s, relation, pid, role, application, state, age_s, query in rows:
        blocker = Blocker(
            pid, role or "", application or "", state or "", command(query or ""), age_s
        )
        known = waits.get(waiting_pid)
        blockers = (*(known.blockers if known else ()), blocker)
        waits[waiting_pid] = LockWait(waiting_pid, wait_s, relation or "", blockers)
    return list(waits.values())


def command(query: str) -> str:
    """Give the first word or two of a query, if they are words that SQL begins with."""
    begin = SPACE.match(query)
    found = COMMAND.match(query, begin.end() if begin else 0)
    return " ".join(found.group().upper().split()) if found else "unknown"
