"""Which range is copied next, and what is left: the copy's state, without its processes.

Upstream: the tables as creation cut them. Downstream: the copy takes tasks and brings back results.
Invariant: a range is either waiting, running or published; one that comes back
unpublished gets a new attempt number. Pure: no input or output.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgflo.broker.records import TableRecord, TableState
from pgflo.replicator.copy_process import RangeReport, RangeTask
from pgflo.source.ranges import TableRanges

if TYPE_CHECKING:
    from collections.abc import Iterable

TEXT_FACTOR = 1.3
"""Bytes of COPY text per byte of heap until the first ranges have told."""


@dataclass(slots=True)
class CopyTable:
    """A table while it is copied. `record` is what others are told."""

    record: TableRecord
    cut: TableRanges
    waiting: list[int]
    running: int = 0
    attempts: dict[int, int] = field(default_factory=dict)
    source_failures: dict[int, int] = field(default_factory=dict)
    is_recorded: bool = True
    """Whether the group's record has `record` as it is."""

    @property
    def name(self) -> str:
        """Schema and name, for people."""
        return f"{self.record.schema}.{self.record.name}"

    @property
    def left(self) -> int:
        """Ranges that are not published yet."""
        return self.record.ranges - self.record.published_ranges


class RangeQueue:
    """All ranges of a copy, largest table first."""

    def __init__(self, tables: Iterable[TableRecord], *, max_per_table: int) -> None:
        self._max_per_table = max_per_table
        self.tables = {
            table.oid: CopyTable(
                table,
                TableRanges(table.oid, table.ranges, table.range_blocks, table.bytes),
                list(range(table.ranges)),
            )
            for table in sorted(tables, key=lambda table: -table.bytes)
        }
        self.published_bytes = 0
        self._published_heap_bytes = 0

    @property
    def useful_lanes(self) -> int:
        """How many processes could work at the same time."""
        return sum(min(table.record.ranges, self._max_per_table) for table in self.tables.values())

    @property
    def is_done(self) -> bool:
        """Whether every range is published."""
        return not any(table.left for table in self.tables.values())

    @property
    def running(self) -> int:
        """Ranges that are being copied."""
        return sum(table.running for table in self.tables.values())

    @property
    def rows(self) -> int:
        """Rows published."""
        return sum(table.record.published_rows for table in self.tables.values())

    @property
    def text_factor(self) -> float:
        """Bytes of COPY text per byte of heap, as far as known; at least 1."""
        if not self._published_heap_bytes:
            return TEXT_FACTOR
        return max(1.0, self.published_bytes / self._published_heap_bytes)

    def next_table(self) -> CopyTable | None:
        """Give the largest table that has a range to start and a process to spare."""
        return next(
            (
                table
                for table in self.tables.values()
                if table.waiting and table.running < self._max_per_table
            ),
            None,
        )

    def take(self, table: CopyTable) -> RangeTask:
        """Start the next range of a table that `next_table` gave."""
        range_no = table.waiting.pop(0)
        table.running += 1
        attempt = table.attempts[range_no] = table.attempts.get(range_no, 0) + 1
        if table.record.state is TableState.WAITING:
            table.record = replace(table.record, state=TableState.COPYING)
            table.is_recorded = False
        return RangeTask(
            table.record.oid,
            table.record.schema,
            table.record.name,
            tuple(column.name for column in table.record.columns),
            range_no,
            table.cut.bounds(range_no),
            attempt,
        )

    def finish(self, task: RangeTask, report: RangeReport) -> CopyTable:
        """Count a range as published and give its table."""
        table = self.tables[task.relation_oid]
        table.running -= 1
        record = table.record
        published = record.published_ranges + 1
        table.record = replace(
            record,
            published_ranges=published,
            published_rows=record.published_rows + report.rows,
            published_bytes=record.published_bytes + report.bytes,
            state=TableState.PUBLISHED if published == record.ranges else record.state,
        )
        table.is_recorded = False
        self.published_bytes += report.bytes
        self._published_heap_bytes += record.bytes // record.ranges
        return table

    def give_back(self, task: RangeTask, *, source_failed: bool) -> int:
        """Put a range back in front; tells how often the source has broken it."""
        table = self.tables[task.relation_oid]
        table.running -= 1
        table.waiting.insert(0, task.range_no)
        failures = table.source_failures.get(task.range_no, 0) + source_failed
        table.source_failures[task.range_no] = failures
        return failures
