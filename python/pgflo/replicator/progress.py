"""Counts how far the copy is, for those who watch it.

Upstream: the copy's coordinator. Downstream: a callback of the command line, and the group's record
for `pgflo status`.
Invariant: rows and bytes of a range that is copied again count once, and nobody's wait for these
numbers holds up the copy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pgflo.broker.copy_progress import CopyProgress, TableProgress, per_second, standing
from pgflo.replicator.range_queue import TEXT_FACTOR
from pgflo.replicator.speed import Speed, left_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pgflo.broker.records import TableRecord

INTERVAL_S = 0.25
"""Shortest time between two calls of the callback."""

MOST_OF_A_RANGE = 0.95
"""A range that is longer than the others is not done before it is."""

TELLING_FRACTION = 0.1
"""Copied part of a table from which its rows are a better estimate than statistics."""


@dataclass(slots=True)
class _Table:
    """`base` is what its record said when this run began."""

    base: TableProgress
    ranges_done: int
    rows: int
    bytes: int
    """Of ranges that are done."""
    moving: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Range under way → rows, bytes."""
    began_s: float | None = None
    ended_s: float | None = None
    speed: Speed | None = None
    shown: TableProgress | None = None
    """How it stands while nothing of it moves: a group may have many tables."""

    @property
    def fraction(self) -> float:
        """Copied part of the table."""
        ranges = max(1, self.base.ranges)
        if self.ranges_done:
            range_bytes = self.bytes / self.ranges_done
        else:
            range_bytes = TEXT_FACTOR * self.base.source_bytes / ranges
        begun = sum(
            min(MOST_OF_A_RANGE, size / max(1.0, range_bytes)) for _, size in self.moving.values()
        )
        return min(1.0, (self.ranges_done + begun) / ranges)

    @property
    def amounts(self) -> tuple[int, int, float]:
        """Rows, bytes, and bytes of work at the source."""
        rows = self.rows + sum(rows for rows, _ in self.moving.values())
        size = self.bytes + sum(size for _, size in self.moving.values())
        return rows, size, self.base.work_bytes * self.fraction

    def seconds(self, now_s: float) -> float:
        """Time spent on it, in all runs."""
        if self.began_s is None:
            return self.base.seconds
        ended_s = now_s if self.ended_s is None else self.ended_s
        return self.base.seconds + ended_s - self.began_s


class CopyTally:
    """Counts what the copy does. `tell_if_due` hands a `CopyProgress` to the watcher."""

    def __init__(
        self,
        tables: Iterable[TableRecord],
        watcher: Callable[[CopyProgress], None] | None,
        *,
        incarnation: str = "",
        run: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tables`: all of the group, also those that are copied; `clock` gives seconds."""
        known = [standing(table) for table in tables if table.ranges]
        self._tables = {
            table.oid: _Table(table, table.ranges_done, table.rows, table.bytes)
            for table in sorted(known, key=lambda table: -table.source_bytes)
        }
        self._watcher = watcher
        self._clock = clock
        self._told_s = 0.0
        self._began_s = clock()
        self._former_s = 0.0
        self._whole = CopyProgress(incarnation, run, ())
        self._work_bytes = sum(table.base.work_bytes for table in self._tables.values())
        self._at_work: set[int] = set()
        """Tables that were begun in this run and are not done."""
        self._settled = _sum(table.amounts for table in self._tables.values())
        """Of all others."""
        self._speed = Speed(self._began_s, *self._settled)

    def add_former(self, told: CopyProgress | None) -> None:
        """Count the time that former runs of this incarnation's copy took."""
        if told is not None and told.incarnation == self._whole.incarnation:
            self._former_s = told.seconds

    def start(self, oid: int, range_no: int) -> None:
        """Note that a range is handed out."""
        table, now_s = self._tables[oid], self._clock()
        table.moving[range_no] = (0, 0)
        if table.speed is None:
            table.began_s = now_s
            table.speed = Speed(now_s, *table.amounts)
            self._at_work.add(oid)
            self._settled = _sum((self._settled, tuple(-amount for amount in table.amounts)))

    def move_range(self, oid: int, range_no: int, rows: int, size: int) -> None:
        """Note how far a range is."""
        self._tables[oid].moving[range_no] = (rows, size)

    def forget_range(self, oid: int, range_no: int) -> None:
        """Note that an attempt at a range is lost."""
        self._tables[oid].moving.pop(range_no, None)

    def finish_range(self, oid: int, range_no: int, rows: int, size: int) -> None:
        """Note that a range is published."""
        table = self._tables[oid]
        table.moving.pop(range_no, None)
        table.ranges_done += 1
        table.rows += rows
        table.bytes += size
        if table.ranges_done == table.base.ranges:
            table.ended_s = self._clock()
            self._at_work.discard(oid)
            self._settled = _sum((self._settled, table.amounts))

    def seconds(self, oid: int) -> float:
        """Give the time spent on a table, in all runs."""
        return self._tables[oid].seconds(self._clock())

    def tell_if_due(self, *, finished: bool = False) -> None:
        """Call the watcher, if there is one, at most every `INTERVAL_S` and at the end."""
        now_s = self._clock()
        if self._watcher is None or not (finished or now_s - self._told_s >= INTERVAL_S):
            return
        self._told_s = now_s
        self._watcher(self.look(finished=finished))

    def look(self, *, finished: bool = False) -> CopyProgress:
        """Give the state of the copy."""
        now_s = self._clock()
        amounts = self._amounts()
        self._speed.note(now_s, *amounts)
        rates = self._speed.per_s(now_s, *amounts)
        seconds = self._former_s + now_s - self._began_s
        whole = replace(
            self._whole,
            tables=tuple(_look(table, now_s) for table in self._tables.values()),
            seconds=seconds,
            told_at=time.time(),
        )
        if finished:
            return replace(
                whole,
                rows_per_s=per_second(amounts[0], seconds),
                bytes_per_s=per_second(amounts[1], seconds),
                eta_s=0.0,
                finished=True,
            )
        if rates is None:
            return whole
        return replace(
            whole,
            rows_per_s=rates[0],
            bytes_per_s=rates[1],
            eta_s=left_s(self._work_bytes - amounts[2], rates[2]),
        )

    def _amounts(self) -> tuple[float, ...]:
        return _sum((self._settled, *(self._tables[oid].amounts for oid in self._at_work)))


def _sum(amounts: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(map(sum, zip((0, 0, 0), *amounts, strict=True)))


def _look(table: _Table, now_s: float) -> TableProgress:
    if table.speed is None:
        return table.base
    if table.shown is not None:
        return table.shown
    rows, size, work = amounts = table.amounts
    seconds, fraction = table.seconds(now_s), table.fraction
    shown = replace(
        table.base,
        ranges_done=table.ranges_done,
        ranges_running=len(table.moving),
        rows=rows,
        bytes=size,
        fraction=fraction,
        seconds=seconds,
    )
    if shown.is_done:
        table.shown = replace(
            shown,
            estimated_rows=rows,
            rows_per_s=per_second(rows, seconds),
            bytes_per_s=per_second(size, seconds),
            eta_s=0.0,
        )
        return table.shown
    estimated = table.base.estimated_rows
    if table.ranges_done and fraction >= TELLING_FRACTION:
        estimated = round(rows / fraction)
    table.speed.note(now_s, *amounts)
    rates = table.speed.per_s(now_s, *amounts)
    return replace(
        shown,
        estimated_rows=None if estimated is None else max(rows, estimated),
        rows_per_s=rates[0] if rates else None,
        bytes_per_s=rates[1] if rates else None,
        eta_s=left_s(table.base.work_bytes - work, rates[2]) if rates else None,
    )
