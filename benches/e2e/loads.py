"""The backlogs: what both sides begin with, and what the source writes while nobody reads.

Downstream: `backlog.py`. Invariant: a load ends with a commit of its own, so that the place where
the backlog ends is known to the byte whatever else writes WAL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import LiteralString

    from benches.e2e.bed import Bed

SOURCE_DB = "backlog"
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
PGBENCH_TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")
PGBENCH_DONE = re.compile(r"number of transactions actually processed: (\d+)")
CHANGES_PER_TPCB = 4


@dataclass(frozen=True)
class Load:
    """A backlog: its tables, what both sides begin with, and the writes nobody reads yet."""

    name: str
    tables: tuple[str, ...]
    prepare: Callable[[Bed], None]
    write: Callable[[Bed], int]
    """Runs the load at the source and returns the number of row changes in it."""
    last_write: LiteralString
    """One more change, of one row."""
    insert_only: tuple[str, ...] = ()
    """Tables without a key, which are only ever inserted into."""

    def flags(self) -> list[str]:
        """How pgflo is told of the tables."""
        keyed = [table for table in self.tables if table not in self.insert_only]
        flags = ["--stream", "--tables", ",".join(keyed)]
        if self.insert_only:
            flags += ["--insert-only-tables", ",".join(self.insert_only)]
        return flags


def pgbench_load(*, scale: int, clients: int, seconds: int, transactions: int | None) -> Load:
    """Three updates and an insert per transaction, for `seconds` or up to so many transactions."""
    each = None if transactions is None else transactions // clients
    amount = ("-T", str(seconds)) if each is None else ("-t", str(each))

    def prepare(bed: Bed) -> None:
        bed.recreate(bed.source, SOURCE_DB)
        bed.tool("pgbench", "-i", "-q", "-s", str(scale), dbname=SOURCE_DB, server=bed.source)

    def write(bed: Bed) -> int:
        arguments = ("-n", "-c", str(clients), *amount, "-M", "prepared")
        report = bed.tool("pgbench", *arguments, dbname=SOURCE_DB, server=bed.source)
        done = PGBENCH_DONE.search(report)
        assert done is not None
        return int(done[1]) * CHANGES_PER_TPCB

    length = f"{seconds} s" if each is None else f"{each * clients} transactions"
    return Load(
        f"pgbench tpcb, scale {scale}, {clients} clients, {length}",
        PGBENCH_TABLES,
        prepare,
        write,
        "UPDATE pgbench_branches SET bbalance = bbalance WHERE bid = 1",
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

    return Load(
        f"mixed, {transactions} transactions of 100 changes",
        ("mixed",),
        prepare,
        write,
        "UPDATE mixed SET account = account WHERE id = 1",
    )
