"""Which range is copied next, and what is left: the copy's state, without its processes.

Upstream: the tables' records, as creation cut them or as a former run of the copy left them.
Downstream: the copy takes tasks and brings back results; the records are written from here.
Invariant: a range is either waiting, running, stored or published. It is published once the
snapshot is proved to have held until its rows were read; one that comes back unpublished gets a new
attempt number, which no other run of the copy uses. Pure: no input or output.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pgflo import errors
from pgflo._core import has_binary_form
from pgflo.broker.records import ATTEMPTS_PER_RUN, TableRecord, TableState, TailRecord
from pgflo.broker.spans import numbers, with_number
from pgflo.errors import PgfloError
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
    is_binary: bool
    """The format that its rows travel in."""
    running: int = 0
    stored: list[tuple[int, RangeReport]] = field(default_factory=list)
    """Ranges that the broker has, without proof yet."""
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
        """Ranges that the broker does not have yet."""
        return self.record.ranges - self.record.published_ranges - len(self.stored)

    @property
    def range_bytes(self) -> int:
        """Size of one range at the source, as if all had the same."""
        return self.record.bytes // self.record.ranges

    def change(self, **fields: Any) -> None:  # noqa: ANN401 - fields of TableRecord
        """Change the record, which is to be written then."""
        self.record = replace(self.record, **fields)
        self.is_recorded = False


class RangeQueue:
    """All ranges that are left of a copy, largest table first."""

    def __init__(
        self,
        tables: Iterable[TableRecord],
        *,
        max_per_table: int,
        run: int,
        range_bytes: int,
        as_text: bool = False,
    ) -> None:
        """`range_bytes`: what a range has at most, if one page has no more.

        `as_text`: no rows travel in binary, whatever their types allow.
        """
        self._range_bytes = range_bytes
        self._ahead: list[tuple[int, int]] = []
        """Lane and bytes at the source of what is stored and not written down, oldest first."""
        self._max_per_table = max_per_table
        self._run = run
        self.tables = {
            table.oid: CopyTable(
                table,
                TableRanges(table.oid, table.ranges, table.range_blocks, table.bytes),
                [no for no in range(table.ranges) if no not in published],
                is_binary=not as_text
                and has_binary_form([column.type_oid for column in table.columns]),
            )
            for table in sorted(tables, key=lambda table: -table.bytes)
            for published in [numbers(table.published)]
        }
        self.rows = self.published_bytes = 0
        """Of this run."""
        self._published_heap_bytes = 0

    @property
    def useful_lanes(self) -> int:
        """How many processes could work at the same time."""
        return sum(min(table.left, self._max_per_table) for table in self.tables.values())

    @property
    def is_done(self) -> bool:
        """Whether the broker has every range."""
        return not any(table.left for table in self.tables.values())

    @property
    def running(self) -> int:
        """Ranges that are being copied."""
        return sum(table.running for table in self.tables.values())

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

    def may_begin(self, lane: int, table: CopyTable) -> bool:
        """Whether a lane that is killed would lose no more than a range.

        What it has stored is lost as well while the table's record, as others know it, lacks it.
        """
        ahead_bytes = sum(size for of, size in self._ahead if of == lane)
        return not ahead_bytes or ahead_bytes + table.range_bytes <= self._range_bytes

    @property
    def unwritten(self) -> int:
        """Ranges that are stored and not noted as written."""
        return len(self._ahead)

    def note_written(self, count: int) -> None:
        """Note that the records tell of the oldest `count` of them."""
        del self._ahead[:count]

    def take(self, table: CopyTable) -> RangeTask:
        """Start the next range of a table that `next_table` gave."""
        range_no = table.waiting.pop(0)
        table.running += 1
        table.change(state=TableState.COPYING, running_ranges=table.running)
        attempt = table.attempts[range_no] = table.attempts.get(range_no, 0) + 1
        if attempt == ATTEMPTS_PER_RUN:
            raise PgfloError(
                errors.COPY_BROKEN, f"range {range_no} of {table.name} broke {attempt - 1} times"
            )
        return RangeTask(
            table.record.oid,
            table.record.schema,
            table.record.name,
            tuple(column.name for column in table.record.columns),
            range_no,
            table.cut.bounds(range_no),
            self._run * ATTEMPTS_PER_RUN + attempt,
            table.is_binary,
        )

    def finish(self, task: RangeTask, report: RangeReport, lane: int) -> CopyTable:
        """Note that the broker has a range, from this lane, and give its table."""
        table = self.tables[task.relation_oid]
        table.running -= 1
        tail = TailRecord(report.seq, task.range_no, task.attempt)
        table.change(tails={**table.record.tails, lane: tail})
        table.stored.append((task.range_no, report))
        self.rows += report.rows
        self.published_bytes += report.bytes
        self._published_heap_bytes += table.range_bytes
        self._ahead.append((lane, table.range_bytes))
        return table

    def unproved(self) -> dict[int, int]:
        """Tell of which tables how many ranges are stored, and may be published with proof."""
        return {oid: len(table.stored) for oid, table in self.tables.items() if table.stored}

    def publish(self, proved: dict[int, int]) -> None:
        """Count what `unproved` gave as published: since then the snapshot was seen to hold."""
        for oid, count in proved.items():
            table = self.tables[oid]
            record, spans = table.record, table.record.published
            done, table.stored = table.stored[:count], table.stored[count:]
            for range_no, _ in done:
                spans = with_number(spans, range_no)
            published = record.published_ranges + count
            table.change(
                published=spans,
                published_ranges=published,
                published_rows=record.published_rows + sum(report.rows for _, report in done),
                published_bytes=record.published_bytes + sum(report.bytes for _, report in done),
                running_ranges=table.running,
                state=TableState.PUBLISHED if published == record.ranges else record.state,
            )

    def give_back(self, task: RangeTask, *, source_failed: bool) -> int:
        """Put a range back in front; tells how often the source has broken it."""
        table = self.tables[task.relation_oid]
        table.running -= 1
        table.change(running_ranges=table.running)
        table.waiting.insert(0, task.range_no)
        failures = table.source_failures.get(task.range_no, 0) + source_failed
        table.source_failures[task.range_no] = failures
        return failures
