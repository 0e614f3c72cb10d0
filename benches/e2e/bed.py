"""The test bed of a run: one source server, one target server, default durability, throw-away.

Upstream: the machine's PostgreSQL. Downstream: the measurements in `copy.py`, `backlog.py`,
`latency.py` and `bigtx.py`. Invariant: both contenders use these same two servers, each with a
target database of its own, and the data is compared after every timed piece.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from pgflo.embedded import EmbeddedNats, EmbeddedPostgres, throw_away_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVER_SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "min_wal_size": "2GB",
    "checkpoint_timeout": "30min",
    "track_commit_timestamp": "on",
    "max_logical_replication_workers": "8",
    "max_sync_workers_per_subscription": "8",
    "max_worker_processes": "16",
}
"""Room for the load, so that no checkpoint falls into one contender's time only, and neither makes
WAL files for the other to use again; fsync is on."""

POLL_S = 0.02
"""Pause between looks at a server while waiting, in seconds: the resolution of every time."""


@dataclass(frozen=True)
class Bed:
    """The servers and the folder that everything else of the run lives in."""

    source: EmbeddedPostgres
    target: EmbeddedPostgres
    broker: EmbeddedNats
    directory: Path
    shards: int
    """Writer processes of every pgflo worker of this run."""
    profile: bool
    """Whether to look into the destination while pgflo works."""

    def connect(self, server: EmbeddedPostgres, dbname: str) -> psycopg.Connection:
        """Open an autocommit connection to `dbname`; what it executes is in no profile."""
        untracked = "-c pg_stat_statements.track=none"
        return psycopg.connect(server.dsn(dbname), autocommit=True, options=untracked)

    def tool(self, name: str, *arguments: str, dbname: str, server: EmbeddedPostgres) -> str:
        """Run a client program of the servers' own installation and return what it prints."""
        return subprocess.run(
            [str(server.binaries.path / name), *arguments, server.dsn(dbname)]
            if name != "pgbench"
            else [
                str(server.binaries.path / name),
                "-h",
                "127.0.0.1",
                "-p",
                str(server.port),
                "-U",
                "postgres",
                *arguments,
                dbname,
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def recreate(self, server: EmbeddedPostgres, dbname: str) -> None:
        """Drop `dbname` where it exists and create it empty."""
        with self.connect(server, "postgres") as conn:
            conn.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(dbname))
            )
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dbname)))


@contextlib.contextmanager
def servers(*, shards: int, profile: bool) -> Iterator[Bed]:
    """Start the servers and remove them with all they stored."""
    with (
        tempfile.TemporaryDirectory(prefix="pgflo-bench-") as name,
        _server() as source,
        _server() as target,
        EmbeddedNats(throw_away_directory("pgflo-bench-"), throw_away=True) as broker,
    ):
        yield Bed(source, target, broker, Path(name), shards, profile)


def _server() -> EmbeddedPostgres:
    directory = throw_away_directory("pgflo-bench-")
    return EmbeddedPostgres(directory, settings=SERVER_SETTINGS, throw_away=True)


def wait_for(question: Callable[[], bool], *, limit_s: float, what: str) -> None:
    """Ask again every `POLL_S` until `question()` is true; never getting there is an error."""
    deadline = time.monotonic() + limit_s
    while not question():
        if time.monotonic() > deadline:
            message = f"{what}: not reached in {limit_s:.0f} s"
            raise TimeoutError(message)
        time.sleep(POLL_S)


def fingerprint(
    conn: psycopg.Connection, table: str, columns: tuple[str, ...] = ()
) -> tuple[int, int]:
    """Count the rows of `table` and sum a hash of each: equal on both sides or the run is void."""
    compared = sql.SQL(", ").join(map(sql.Identifier, columns)) if columns else sql.SQL("*")
    row = conn.execute(
        sql.SQL(
            "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)"
            " FROM (SELECT {} FROM {}) t"
        ).format(compared, sql.Identifier(table))
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def assert_equal(
    bed: Bed,
    source_db: str,
    target_db: str,
    tables: tuple[str, ...],
    columns: tuple[str, ...] = (),
) -> None:
    """Compare every table of both databases and stop the run where they differ."""
    with bed.connect(bed.source, source_db) as left, bed.connect(bed.target, target_db) as right:
        for table in tables:
            if fingerprint(left, table, columns) != fingerprint(right, table, columns):
                message = f"table {table} differs between {source_db} and {target_db}: a void run"
                raise AssertionError(message)
