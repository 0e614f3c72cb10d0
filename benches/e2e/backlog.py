"""Catching up: both contenders empty the same backlog, one after the other, in turns.

Upstream: `loads.py`. Downstream: `contenders.py`. Both slots exist while the source writes and
nobody reads. Then native's subscription is enabled, or pgflo's two commands start; the time ends
when the destination has durably applied the source's last commit. Invariant: while one works, the
other has no process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benches.e2e.bed import Bed, assert_equal, wait_for
from benches.e2e.contenders import Native, Pgflo, has_ended
from benches.e2e.loads import SOURCE_DB
from benches.e2e.observe import Piece, watched_native, watched_pgflo

if TYPE_CHECKING:
    from pathlib import Path

    from benches.e2e.loads import Load

LIMIT_S = 900.0
NATIVE_DB, PGFLO_DB = "backlog_native", "backlog_pgflo"


@dataclass(frozen=True)
class Round:
    """What one backlog cost each contender."""

    changes: int
    native: Piece
    pgflo: Piece


def dump(bed: Bed) -> Path:
    """Write down the source's tables and rows."""
    path = bed.directory / "dump.sql"
    arguments = ("--no-owner", f"--file={path}", "--dbname")
    bed.tool("pg_dump", *arguments, dbname=SOURCE_DB, server=bed.source)
    return path


def fresh_target(bed: Bed, target_db: str, dump: Path) -> None:
    """Give the target the source's tables and rows, so that both start equal."""
    bed.recreate(bed.target, target_db)
    arguments = ("--quiet", f"--file={dump}", "--dbname")
    bed.tool("psql", *arguments, dbname=target_db, server=bed.target)
    with bed.connect(bed.target, target_db) as conn:
        conn.execute("VACUUM ANALYZE")


def settle(bed: Bed) -> None:
    """Leave nothing of what the target did before to the next one's time."""
    with bed.connect(bed.target, "postgres") as conn:
        conn.execute("CHECKPOINT")


def close_backlog(bed: Bed, load: Load) -> int:
    """Make the last change and return an LSN that only its commit lies beyond."""
    with bed.connect(bed.source, SOURCE_DB) as conn, conn.transaction():
        conn.execute(load.last_write)
        row = conn.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
    assert row is not None
    return int(row[0])


def _native_piece(bed: Bed, native: Native, last_lsn: int) -> Piece:
    with (
        bed.connect(bed.target, native.target_db) as target,
        bed.connect(bed.source, SOURCE_DB) as source,
    ):
        with watched_native(native, source, target) as usage:
            started = time.monotonic()
            native.enable(target)
            wait_for(
                lambda: native.confirmed_lsn(source) > last_lsn,
                limit_s=LIMIT_S,
                what="native backlog",
            )
            elapsed = time.monotonic() - started
        native.disable(target)
    return Piece(elapsed, usage.costs())


def empty(bed: Bed, ours: Pgflo, load: Load, last_lsn: int) -> Piece:
    """Let pgflo empty the backlog, and give what that cost."""
    with bed.connect(bed.target, ours.target_db) as target:
        started = time.monotonic()
        with (
            ours.running(*load.flags()) as processes,
            watched_pgflo(ours, processes, target) as usage,
        ):
            wait_for(
                lambda: ours.applied_lsn(target) > last_lsn or has_ended(processes),
                limit_s=LIMIT_S,
                what="pgflo backlog",
            )
            elapsed = time.monotonic() - started
    return Piece(elapsed, usage.costs())


def register(bed: Bed, ours: Pgflo, load: Load) -> None:
    """Run pgflo for as long as it takes to make its slot and its place at the destination."""
    with (
        ours.running(*load.flags()) as processes,
        bed.connect(bed.target, ours.target_db) as target,
    ):
        wait_for(
            lambda: ours.applied_lsn(target) > 0 or has_ended(processes),
            limit_s=60,
            what="pgflo's first start",
        )


def one_round(bed: Bed, load: Load, number: int) -> Round:
    """Build the backlog once and let both empty it; who goes first alternates by round."""
    load.prepare(bed)
    dumped = dump(bed)
    for target_db in (NATIVE_DB, PGFLO_DB):
        fresh_target(bed, target_db, dumped)
    native = Native(bed, "bench_backlog", SOURCE_DB, NATIVE_DB)
    native.publish(load.tables)
    native.subscribe(copy_data=False, enabled=False)
    ours = Pgflo(bed, f"backlog_{number}", SOURCE_DB, PGFLO_DB)
    register(bed, ours, load)
    changes = load.write(bed) + 1
    last_lsn = close_backlog(bed, load)
    settle(bed)
    if number % 2:
        native_piece = _native_piece(bed, native, last_lsn)
        settle(bed)
        pgflo_piece = empty(bed, ours, load, last_lsn)
    else:
        pgflo_piece = empty(bed, ours, load, last_lsn)
        settle(bed)
        native_piece = _native_piece(bed, native, last_lsn)
    for target_db in (NATIVE_DB, PGFLO_DB):
        assert_equal(bed, SOURCE_DB, target_db, load.tables)
    native.remove()
    ours.forget()
    return Round(changes, native_piece, pgflo_piece)
