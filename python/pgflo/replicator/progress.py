"""How far the copy is, for those who watch it.

Upstream: the copy's coordinator. Downstream: a callback of the command line.
Invariant: rows and bytes of a range that is copied again count once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pgflo.broker.records import TableRecord

INTERVAL_S = 0.25
"""Shortest time between two calls of the callback."""


@dataclass(frozen=True, slots=True)
class TableProgress:
    """One table. Times are monotonic seconds; None until it starts or ends."""

    table: str
    ranges: int
    heap_bytes: int
    ranges_done: int = 0
    rows: int = 0
    bytes: int = 0
    """COPY text published or on its way."""
    started_at: float | None = None
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """The whole copy at one moment, largest table first."""

    tables: tuple[TableProgress, ...]
    finished: bool
    """Whether every range of every table is published."""


@dataclass(slots=True)
class _Counts:
    ranges: int
    heap_bytes: int
    ranges_done: int = 0
    rows: int = 0
    bytes: int = 0
    moving: dict[int, tuple[int, int]] = field(default_factory=dict)
    started_at: float | None = None
    finished_at: float | None = None


class CopyTally:
    """Counts what the copy does. `tell_if_due` hands a `CopyProgress` to the watcher."""

    def __init__(
        self, tables: Iterable[TableRecord], watcher: Callable[[CopyProgress], None] | None
    ) -> None:
        self._tables = {
            f"{table.schema}.{table.name}": _Counts(
                table.ranges,
                table.bytes,
                ranges_done=table.published_ranges,
                rows=table.published_rows,
                bytes=table.published_bytes,
            )
            for table in sorted(tables, key=lambda table: -table.bytes)
        }
        self._watcher = watcher
        self._told_at = 0.0

    def start(self, table: str) -> None:
        """Note that a table's first range is handed out."""
        counts = self._tables[table]
        counts.started_at = counts.started_at or time.monotonic()

    def move_range(self, table: str, range_no: int, rows: int, size: int) -> None:
        """Note how far a range is."""
        self._tables[table].moving[range_no] = (rows, size)

    def forget_range(self, table: str, range_no: int) -> None:
        """Note that an attempt at a range is lost."""
        self._tables[table].moving.pop(range_no, None)

    def finish_range(self, table: str, range_no: int, rows: int, size: int) -> None:
        """Note that a range is published."""
        counts = self._tables[table]
        counts.moving.pop(range_no, None)
        counts.ranges_done += 1
        counts.rows += rows
        counts.bytes += size
        if counts.ranges_done == counts.ranges:
            counts.finished_at = time.monotonic()

    def tell_if_due(self, *, finished: bool = False) -> None:
        """Call the watcher, if there is one, at most every `INTERVAL_S` and at the end."""
        now = time.monotonic()
        if self._watcher is None or not (finished or now - self._told_at >= INTERVAL_S):
            return
        self._told_at = now
        self._watcher(
            CopyProgress(
                tuple(_freeze(name, counts) for name, counts in self._tables.items()), finished
            )
        )


def _freeze(name: str, counts: _Counts) -> TableProgress:
    return TableProgress(
        table=name,
        ranges=counts.ranges,
        heap_bytes=counts.heap_bytes,
        ranges_done=counts.ranges_done,
        rows=counts.rows + sum(rows for rows, _ in counts.moving.values()),
        bytes=counts.bytes + sum(size for _, size in counts.moving.values()),
        started_at=counts.started_at,
        finished_at=counts.finished_at,
    )
