"""Initial copy: seconds from the start of the command to the last row in place.

Native: CREATE SUBSCRIPTION with copy_data until its tables are synchronised. pgflo: start of
`replicate --copy-and-stream` and `worker postgres` until the destination has committed every row;
with the schema brought as well, from an empty database until every key is made.
Upstream: `contenders.py`. Downstream: `__main__.py`. Invariant: all end with the same tables and
keys; native and the pgflo that is held against it begin with them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from benches.e2e.bed import Bed, assert_equal, wait_for
from benches.e2e.contenders import Native, Pgflo, has_ended
from benches.e2e.observe import Piece, watched_native, watched_pgflo

if TYPE_CHECKING:
    from typing import LiteralString

    import psycopg

LIMIT_S = 1800.0
ORDERS = """
CREATE TABLE {table} (
    id bigserial PRIMARY KEY, customer bigint NOT NULL, status varchar(20) NOT NULL,
    details jsonb NOT NULL, total numeric(12, 2) NOT NULL, placed timestamp NOT NULL)
"""
FILL_ORDERS = """
INSERT INTO {table} (customer, status, details, total, placed)
SELECT (i * 7919) % 100000, (ARRAY['new', 'paid', 'sent', 'returned'])[i % 4 + 1],
       jsonb_build_object('sku', 'A-' || i, 'quantity', i % 9 + 1,
                          'note', repeat('x', (i % 30)::int)),
       (i % 100000) / 7.0, timestamp '2026-01-01' + i * interval '1 second'
FROM generate_series(1::bigint, {rows}) AS i
"""
NOTES = "CREATE TABLE {table} (id bigint PRIMARY KEY, note text NOT NULL)"
FILL_NOTES = """
INSERT INTO {table} SELECT i, repeat(md5(i::text), 30) FROM generate_series(1::bigint, {rows}) AS i
"""
NOTE_BYTES = 1000
"""Of a row of notes, about: a table of a size is made of them."""


@dataclass(frozen=True)
class Data:
    """What is copied: `tables` of `rows` each, in a database named `name` at the source."""

    name: str
    tables: tuple[str, ...]
    rows: int
    definition: LiteralString = ORDERS
    fill: LiteralString = FILL_ORDERS

    @property
    def all_rows(self) -> int:
        """Rows of all tables."""
        return self.rows * len(self.tables)

    def define(self, conn: psycopg.Connection) -> None:
        """Make the tables, empty."""
        for table in self.tables:
            conn.execute(sql.SQL(self.definition).format(table=sql.Identifier(table)))


def orders(name: str, tables: int, rows: int) -> Data:
    """Describe `tables` tables of narrow rows of many types, `rows` in all."""
    return Data(name, tuple(f"orders_{no}" for no in range(tables)), rows // tables)


def notes(name: str, size_bytes: int) -> Data:
    """Describe one table of so many bytes."""
    return Data(name, ("notes",), size_bytes // NOTE_BYTES, NOTES, FILL_NOTES)


def prepare(bed: Bed, data: Data) -> None:
    """Fill the source once, for every round."""
    bed.recreate(bed.source, data.name)
    with bed.connect(bed.source, data.name) as conn:
        data.define(conn)
        for table in map(sql.Identifier, data.tables):
            rows = sql.Literal(data.rows)
            conn.execute(sql.SQL(data.fill).format(table=table, rows=rows))
            conn.execute(sql.SQL("VACUUM ANALYZE {}").format(table))
        conn.execute("CHECKPOINT")


def _fresh_target(bed: Bed, data: Data, dbname: str) -> None:
    bed.recreate(bed.target, dbname)
    with bed.connect(bed.target, dbname) as conn:
        data.define(conn)
        conn.execute("CHECKPOINT")


def native_round(bed: Bed, data: Data) -> Piece:
    """Time one native initial synchronisation."""
    target = f"{data.name}_native"
    _fresh_target(bed, data, target)
    native = Native(bed, f"bench_{data.name}", data.name, target)
    native.publish(data.tables)
    with bed.connect(bed.target, target) as conn, watched_native(native, conn) as usage:
        started = time.monotonic()
        native.subscribe(copy_data=True, enabled=True)
        wait_for(lambda: native.copied(conn), limit_s=LIMIT_S, what="native copy")
        elapsed = time.monotonic() - started
    native.remove()
    assert_equal(bed, data.name, target, data.tables)
    return Piece(elapsed, usage.costs())


def pgflo_round(
    bed: Bed, data: Data, workers: int, number: int, *, brings_schema: bool = False
) -> Piece:
    """Time one copy by pgflo, into tables that are there or, with `brings_schema`, into none."""
    target = f"{data.name}_pgflo"
    if brings_schema:
        bed.recreate(bed.target, target)
    else:
        _fresh_target(bed, data, target)
    sync = ("--target-sync-schema",) if brings_schema else ()
    ours = Pgflo(bed, f"{data.name}_{number}", data.name, target, sync)
    tables = ("--tables", ",".join(data.tables))
    flags = ("--copy-and-stream", "--max-copy-workers-per-table", str(workers), *tables)

    def is_done() -> bool:
        return ours.copied_rows(conn) == data.all_rows and (
            not brings_schema or ours.schema_is_made(conn)
        )

    with bed.connect(bed.target, target) as conn:
        started = time.monotonic()
        with (
            ours.running(*flags) as processes,
            watched_pgflo(ours, processes, conn) as usage,
        ):
            wait_for(lambda: is_done() or has_ended(processes), limit_s=LIMIT_S, what="pgflo copy")
            elapsed = time.monotonic() - started
    assert_equal(bed, data.name, target, data.tables)
    ours.forget()
    return Piece(elapsed, usage.costs())
