"""Initial copy of one table: seconds from the start of the command to the last row in place.

Native: CREATE SUBSCRIPTION with copy_data until its table is synchronised. pgflo: start of
`replicate --copy-and-stream` and `worker postgres` until the destination has committed every row.
"""

from __future__ import annotations

import time

from benches.e2e.bed import Bed, assert_equal, wait_for
from benches.e2e.contenders import Native, Pgflo, has_ended
from benches.e2e.observe import Piece, watched_native, watched_pgflo

TABLE = "orders"
LIMIT_S = 600.0
DEFINITION = """
CREATE TABLE orders (
    id bigserial PRIMARY KEY, customer bigint NOT NULL, status varchar(20) NOT NULL,
    details jsonb NOT NULL, total numeric(12, 2) NOT NULL, placed timestamp NOT NULL)
"""
FILL = """
INSERT INTO orders (customer, status, details, total, placed)
SELECT (i * 7919) %% 100000, (ARRAY['new', 'paid', 'sent', 'returned'])[i %% 4 + 1],
       jsonb_build_object('sku', 'A-' || i, 'quantity', i %% 9 + 1,
                          'note', repeat('x', (i %% 30)::int)),
       (i %% 100000) / 7.0, timestamp '2026-01-01' + i * interval '1 second'
FROM generate_series(1::bigint, %s) AS i
"""


def prepare(bed: Bed, rows: int) -> None:
    """Fill the source once, for every round."""
    bed.recreate(bed.source, "copy")
    with bed.connect(bed.source, "copy") as conn:
        conn.execute(DEFINITION)
        conn.execute(FILL, (rows,))
        conn.execute("VACUUM ANALYZE orders")
        conn.execute("CHECKPOINT")


def _fresh_target(bed: Bed, dbname: str) -> None:
    bed.recreate(bed.target, dbname)
    with bed.connect(bed.target, dbname) as conn:
        conn.execute(DEFINITION)
        conn.execute("CHECKPOINT")


def native_round(bed: Bed) -> Piece:
    """Time one native initial synchronisation."""
    _fresh_target(bed, "copy_native")
    native = Native(bed, "bench_copy", "copy", "copy_native")
    native.publish((TABLE,))
    with bed.connect(bed.target, "copy_native") as conn, watched_native(native, conn) as usage:
        started = time.monotonic()
        native.subscribe(copy_data=True, enabled=True)
        wait_for(lambda: native.copied(conn), limit_s=LIMIT_S, what="native copy")
        elapsed = time.monotonic() - started
    native.remove()
    assert_equal(bed, "copy", "copy_native", (TABLE,))
    return Piece(elapsed, usage.costs())


def pgflo_round(bed: Bed, rows: int, workers: int, number: int) -> Piece:
    """Time one copy by pgflo."""
    _fresh_target(bed, "copy_pgflo")
    ours = Pgflo(bed, f"copy_{number}", "copy", "copy_pgflo")
    flags = ("--copy-and-stream", "--max-copy-workers-per-table", str(workers), "--tables", TABLE)
    with bed.connect(bed.target, "copy_pgflo") as conn:
        started = time.monotonic()
        with (
            ours.running(*flags) as processes,
            watched_pgflo(ours, processes, conn) as usage,
        ):
            wait_for(
                lambda: ours.copied_rows(conn) == rows or has_ended(processes),
                limit_s=LIMIT_S,
                what="pgflo copy",
            )
            elapsed = time.monotonic() - started
    assert_equal(bed, "copy", "copy_pgflo", (TABLE,))
    ours.forget()
    return Piece(elapsed, usage.costs())
