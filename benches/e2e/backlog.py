"""Catching up: both contenders empty the same backlog, one after the other, in turns.

Both slots exist while the source writes and nobody reads. Then native's subscription is enabled, or
pgflo's two commands start; the time ends when the destination has durably applied the source's last
commit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benches.e2e.bed import Bed, assert_equal, wait_for
from benches.e2e.contenders import Native, Pgflo, has_ended, sampled

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 900.0
SOURCE_DB, NATIVE_DB, PGFLO_DB = "backlog", "backlog_native", "backlog_pgflo"
MIXED_DEFINITION = """
CREATE TABLE mixed (
    id bigint PRIMARY KEY, account int NOT NULL, amount numeric(12, 2) NOT NULL,
    note text, changed timestamptz NOT NULL DEFAULT '2026-01-01')
"""
MIXED_ROWS = """
INSERT INTO mixed SELECT i, i % 1000, i, 'first', '2026-01-01' FROM generate_series(1, 620000) i
"""
MIXED_LOAD = """
CREATE OR REPLACE PROCEDURE write_mixed(transactions int) LANGUAGE plpgsql AS $$
DECLARE
    t int;
BEGIN
    FOR t IN 0 .. transactions - 1 LOOP
        INSERT INTO mixed (id, account, amount, note)
            SELECT 1000000 + t * 50 + i, i, i * 1.25, 'row ' || i FROM generate_series(1, 50) i;
        UPDATE mixed SET amount = amount + 1, note = 'changed ' || t
            WHERE id > (t * 97) % 400000 AND id <= (t * 97) % 400000 + 40;
        DELETE FROM mixed WHERE id > 500000 + t * 10 AND id <= 500000 + t * 10 + 10;
        COMMIT;
    END LOOP;
END $$
"""
"""50 inserts, 40 updates and 10 deletes in each transaction."""


@dataclass(frozen=True)
class Round:
    """What one backlog cost each contender, in seconds."""

    changes: int
    native_s: float
    pgflo_s: float
    usage: str


def _copy_schema(bed: Bed, source_db: str, target_db: str) -> None:
    """Give the target the same tables and rows, so that both start equal."""
    bed.recreate(bed.target, target_db)
    dump = bed.tool("pg_dump", "--no-owner", "--dbname", dbname=source_db, server=bed.source)
    path = bed.directory / "dump.sql"
    path.write_text(dump)
    bed.tool(
        "psql", "--quiet", "--file", str(path), "--dbname", dbname=target_db, server=bed.target
    )


@dataclass(frozen=True)
class Load:
    """A backlog: its tables, what both sides begin with, and the writes nobody reads yet."""

    name: str
    tables: tuple[str, ...]
    prepare: Callable[[Bed], None]
    write: Callable[[Bed], int]
    """Runs the load at the source and returns the number of row changes in it."""
    insert_only: tuple[str, ...] = ()
    """Tables without a key, which are only ever inserted into."""

    def flags(self) -> list[str]:
        """How pgflo is told of the tables."""
        keyed = [table for table in self.tables if table not in self.insert_only]
        flags = ["--stream", "--tables", ",".join(keyed)]
        if self.insert_only:
            flags += ["--insert-only-tables", ",".join(self.insert_only)]
        return flags


def pgbench_load(*, scale: int, clients: int, transactions: int) -> Load:
    """Three updates and an insert per transaction, over `scale` branches."""

    def prepare(bed: Bed) -> None:
        bed.recreate(bed.source, SOURCE_DB)
        bed.tool("pgbench", "-i", "-q", "-s", str(scale), dbname=SOURCE_DB, server=bed.source)

    def write(bed: Bed) -> int:
        each = transactions // clients
        arguments = ("-n", "-c", str(clients), "-t", str(each), "-M", "prepared")
        bed.tool("pgbench", *arguments, dbname=SOURCE_DB, server=bed.source)
        return each * clients * 4

    tables = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")
    return Load(
        f"pgbench tpcb, scale {scale}, {transactions} transactions",
        tables,
        prepare,
        write,
        insert_only=("pgbench_history",),
    )


def mixed_load(*, transactions: int) -> Load:
    """50 inserts, 40 updates and 10 deletes per transaction, on one table."""

    def prepare(bed: Bed) -> None:
        bed.recreate(bed.source, SOURCE_DB)
        with bed.connect(bed.source, SOURCE_DB) as conn:
            conn.execute(MIXED_DEFINITION)
            conn.execute(MIXED_ROWS)
            conn.execute("VACUUM ANALYZE mixed")

    def write(bed: Bed) -> int:
        with bed.connect(bed.source, SOURCE_DB) as conn:
            conn.execute(MIXED_LOAD)
            conn.execute("CALL write_mixed(%s)", (transactions,))
        return transactions * 100

    return Load(f"mixed, {transactions} transactions of 100 changes", ("mixed",), prepare, write)


def _copy_target(bed: Bed, target_db: str) -> None:
    """Give the target the source's tables and rows, so that both start equal."""
    bed.recreate(bed.target, target_db)
    path = bed.directory / "dump.sql"
    path.write_text(
        bed.tool("pg_dump", "--no-owner", "--dbname", dbname=SOURCE_DB, server=bed.source)
    )
    bed.tool(
        "psql", "--quiet", "--file", str(path), "--dbname", dbname=target_db, server=bed.target
    )
    with bed.connect(bed.target, target_db) as conn:
        conn.execute("VACUUM ANALYZE")
        conn.execute("CHECKPOINT")


def _source_lsn(bed: Bed) -> int:
    with bed.connect(bed.source, SOURCE_DB) as conn:
        row = conn.execute("SELECT (pg_current_wal_lsn() - '0/0')::bigint").fetchone()
    assert row is not None
    return int(row[0])


def _native_seconds(bed: Bed, native: Native, until_lsn: int) -> float:
    with (
        bed.connect(bed.target, native.target_db) as target,
        bed.connect(bed.source, SOURCE_DB) as source,
    ):
        started = time.monotonic()
        native.enable(target)
        wait_for(
            lambda: native.confirmed_lsn(source) >= until_lsn,
            limit_s=LIMIT_S,
            what="native backlog",
        )
        return time.monotonic() - started


def _pgflo_seconds(bed: Bed, ours: Pgflo, load: Load, until_lsn: int) -> tuple[float, str]:
    with bed.connect(bed.target, ours.target_db) as target:
        started = time.monotonic()
        with (
            ours.running(*load.flags()) as processes,
            sampled(bed, processes) as usage,
        ):
            wait_for(
                lambda: ours.applied_lsn(target) >= until_lsn or has_ended(processes),
                limit_s=LIMIT_S,
                what="pgflo backlog",
            )
            elapsed = time.monotonic() - started
    return elapsed, usage.report()


def one_round(bed: Bed, load: Load, number: int) -> Round:
    """Build the backlog once and let both empty it; who goes first alternates by round."""
    load.prepare(bed)
    for target_db in (NATIVE_DB, PGFLO_DB):
        _copy_target(bed, target_db)
    native = Native(bed, "bench_backlog", SOURCE_DB, NATIVE_DB)
    native.publish(load.tables)
    native.subscribe(copy_data=False, enabled=False)
    ours = Pgflo(bed, f"backlog_{number}", SOURCE_DB, PGFLO_DB)
    with (
        ours.running(*load.flags()) as processes,
        bed.connect(bed.target, PGFLO_DB) as target,
    ):
        wait_for(
            lambda: ours.applied_lsn(target) > 0 or has_ended(processes),
            limit_s=60,
            what="pgflo's first start",
        )
    changes = load.write(bed)
    until_lsn = _source_lsn(bed)
    times: dict[str, float] = {}
    usage = ""
    for contender in ("native", "pgflo") if number % 2 else ("pgflo", "native"):
        if contender == "native":
            times["native"] = _native_seconds(bed, native, until_lsn)
        else:
            times["pgflo"], usage = _pgflo_seconds(bed, ours, load, until_lsn)
    for target_db in (NATIVE_DB, PGFLO_DB):
        assert_equal(bed, SOURCE_DB, target_db, load.tables)
    native.remove()
    ours.forget()
    return Round(changes, times["native"], times["pgflo"], usage)
