"""How far the copy is, in numbers for people: key `copying` of the group's record, and more.

Upstream: the replicator counts and tells, once a second. Downstream: the command line, `status`.
Invariant: what counts as copied is never decided here but by the tables' records. Every number
that is not known is None: no estimate stands where there is nothing to estimate from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pgflo.broker.records import Stored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgflo.broker.records import TableRecord

RANGE_COST_BYTES = 64 * 1024
"""What a range costs beside its rows, counted as bytes of the source: some round trips and a
transaction at the destination. Without it a thousand empty tables would weigh nothing."""


@dataclass(frozen=True)
class TableProgress:
    """The copy of one table, ranges under way included."""

    oid: int
    table: str
    """schema.name, for people."""
    ranges: int
    source_bytes: int
    """Heap and TOAST at the source."""
    ranges_done: int = 0
    """In the broker."""
    ranges_running: int = 0
    rows: int = 0
    bytes: int = 0
    """As they travel, COPY's text or binary."""
    estimated_rows: int | None = None
    """Of the whole table: from statistics at first, later from what was copied."""
    fraction: float = 0.0
    """Part of the table that is copied, 0 to 1."""
    seconds: float = 0.0
    """From the first range handed out to the last one stored, or to now; of all runs."""
    rows_per_s: float | None = None
    """At present while it is copied; the mean when it is done."""
    bytes_per_s: float | None = None
    eta_s: float | None = None
    """Seconds until it is done; 0 when it is, None while that cannot be told."""

    @property
    def is_done(self) -> bool:
        """Whether the broker has every range."""
        return self.ranges_done >= self.ranges

    @property
    def is_begun(self) -> bool:
        """Whether ranges of it are being copied, or were."""
        return self.ranges_done > 0 or self.ranges_running > 0

    @property
    def work_bytes(self) -> int:
        """What copying all of it costs, in bytes of the source."""
        return self.source_bytes + self.ranges * RANGE_COST_BYTES


@dataclass(frozen=True)
class CopyProgress(Stored):
    """The whole copy at one moment. In the record only with the tables under way."""

    incarnation: str
    run: int
    """The run of the copy that tells this."""
    tables: tuple[TableProgress, ...]
    """Largest first."""
    seconds: float = 0.0
    """Spent on copying, in all runs."""
    rows_per_s: float | None = None
    """At present; the mean when it is finished."""
    bytes_per_s: float | None = None
    eta_s: float | None = None
    """Seconds until every range is published; 0 then, None while that cannot be told."""
    finished: bool = False
    """Whether every range of every table is published."""
    told_at: float = 0.0
    """When this was written, seconds since 1970 on the replicator's clock."""
    queued: tuple[str, ...] = ()
    """Sessions of the source that wait for the copy's locks to go, and on which table."""

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables)

    @property
    def bytes(self) -> int:
        """Bytes of all tables as they travel."""
        return sum(table.bytes for table in self.tables)

    @property
    def tables_done(self) -> int:
        """Tables that are copied."""
        return sum(table.is_done for table in self.tables)

    @property
    def estimated_rows(self) -> int | None:
        """Rows there are in all tables; None unless each of them can be estimated."""
        return add(table.estimated_rows for table in self.tables)

    @property
    def ranges(self) -> int:
        """Ranges of all tables."""
        return sum(table.ranges for table in self.tables)

    @property
    def ranges_done(self) -> int:
        """Ranges that the broker has."""
        return sum(table.ranges_done for table in self.tables)

    @property
    def source_bytes(self) -> int:
        """Size of all tables at the source."""
        return sum(table.source_bytes for table in self.tables)

    @property
    def fraction(self) -> float:
        """Part of the work that is done, 0 to 1."""
        total = sum(table.work_bytes for table in self.tables)
        if not total:
            return 1.0
        return sum(table.work_bytes * table.fraction for table in self.tables) / total

    def under_way(self) -> CopyProgress:
        """Leave out what the tables' records tell as well."""
        moving = tuple(table for table in self.tables if table.ranges_running)
        return replace(self, tables=moving)


def standing(table: TableRecord) -> TableProgress:
    """Tell of a table what its record says: the ranges that are published."""
    # A table that was never cut is not copied: nothing is known of its rows.
    done = 0 < table.ranges <= table.published_ranges
    seconds = table.copy_s
    return TableProgress(
        oid=table.oid,
        table=f"{table.schema}.{table.name}",
        ranges=table.ranges,
        source_bytes=table.bytes,
        ranges_done=table.published_ranges,
        ranges_running=table.running_ranges,
        rows=table.published_rows,
        bytes=table.published_bytes,
        estimated_rows=table.published_rows if done else table.estimated_rows,
        fraction=min(1.0, table.published_ranges / max(1, table.ranges)),
        seconds=seconds,
        rows_per_s=per_second(table.published_rows, seconds) if done else None,
        bytes_per_s=per_second(table.published_bytes, seconds) if done else None,
        eta_s=0.0 if done else None,
    )


def completed(told: CopyProgress, tables: Iterable[TableRecord]) -> CopyProgress:
    """Add to what the replicator told the tables that are not under way.

    A table whose record has more than was told is as its record says.
    """
    moving = {table.oid: table for table in told.tables}
    found = []
    for record in sorted(tables, key=lambda table: -table.bytes):
        known, now = standing(record), moving.get(record.oid)
        found.append(now if now is not None and now.ranges_done >= known.ranges_done else known)
    whole = replace(told, tables=tuple(found))
    if whole.tables_done < len(found):
        return whole
    return replace(
        whole,
        rows_per_s=per_second(whole.rows, whole.seconds),
        bytes_per_s=per_second(whole.bytes, whole.seconds),
        eta_s=0.0,
        finished=True,
    )


def per_second(count: float, seconds: float) -> float | None:
    """Give a mean; None without time for it."""
    return count / seconds if seconds > 0 else None


def add(numbers: Iterable[int | None]) -> int | None:
    """Add numbers up; None if one of them is not known."""
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total
