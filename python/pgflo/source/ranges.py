"""Cuts tables into ctid ranges: the units of copy work.

Upstream: the holder's locks are taken, so no table is rewritten any more. Downstream: the copy's
queue of ranges.
Invariant: the ranges of a table do not overlap, and together they cover every row that the snapshot
can see, also rows in blocks that were added after the sizes were read (the last range is open).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

MIN_RANGE_BYTES = 4 * 1024 * 1024
"""Smaller ranges cost more in statements and destination commits than they bring in evenness."""

RANGES_PER_WORKER = 4
"""Ranges of a large table for each worker, so that none waits long for the last."""

_SIZES = """
SELECT c.oid::int8, pg_relation_size(c.oid, 'main')::int8, pg_table_size(c.oid)::int8,
       current_setting('block_size')::int, coalesce(a.amname = 'heap', false),
       c.reltuples::float8, c.relpages
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
WHERE c.oid = ANY (%s::oid[])
"""


@dataclass(frozen=True, slots=True)
class TableRanges:
    """How one table is cut. `total_bytes` is its heap and TOAST at the source."""

    relation_oid: int
    ranges: int
    range_blocks: int
    """Blocks per range; 0 for a table that is read in one scan."""
    total_bytes: int
    estimated_rows: int | None = None
    """By statistics, scaled to the present size; None for a table that was never analysed."""

    def bounds(self, range_no: int) -> tuple[int, int | None] | None:
        """First block of a range and the block behind it (None: open); None for one whole scan."""
        if self.ranges == 1:
            return None
        first = range_no * self.range_blocks
        is_last = range_no == self.ranges - 1
        return first, None if is_last else first + self.range_blocks


async def plan(
    conn: psycopg.AsyncConnection[Any], oids: list[int], *, range_bytes: int, workers_per_table: int
) -> dict[int, TableRanges]:
    """Read the tables' sizes and cut them. One query; files are asked, not statistics."""
    rows = await (await conn.execute(_SIZES, (oids,))).fetchall()
    return {
        oid: replace(
            cut(
                oid,
                heap_bytes=heap_bytes,
                total_bytes=total_bytes,
                block_bytes=block_bytes,
                has_ctid_ranges=is_heap,
                range_bytes=range_bytes,
                workers_per_table=workers_per_table,
            ),
            estimated_rows=0
            if is_heap and not heap_bytes
            else estimate_rows(heap_bytes // block_bytes, rows_then, blocks_then),
        )
        for oid, heap_bytes, total_bytes, block_bytes, is_heap, rows_then, blocks_then in rows
    }


def estimate_rows(blocks: int, rows_then: float, blocks_then: int) -> int | None:
    """Scale what statistics knew of a table to its blocks of now; None if they knew nothing."""
    if rows_then < 0:
        return None
    if blocks_then > 0:
        return round(rows_then / blocks_then * blocks)
    return round(rows_then) or None


def cut(
    relation_oid: int,
    *,
    heap_bytes: int,
    total_bytes: int,
    block_bytes: int,
    has_ctid_ranges: bool,
    range_bytes: int,
    workers_per_table: int,
) -> TableRanges:
    """Cut one table. TOAST counts as if it were spread evenly over the heap's blocks."""
    blocks = heap_bytes // block_bytes
    if not has_ctid_ranges or blocks == 0:
        return TableRanges(relation_oid, 1, 0, total_bytes)
    wanted_bytes = min(
        range_bytes,
        max(MIN_RANGE_BYTES, total_bytes // (workers_per_table * RANGES_PER_WORKER)),
    )
    block_share_bytes = max(block_bytes, total_bytes // blocks)
    range_blocks = max(1, wanted_bytes // block_share_bytes)
    ranges = -(-blocks // range_blocks)
    return TableRanges(relation_oid, ranges, range_blocks, total_bytes)
