"""The PostgreSQL sink as the worker's contract has it.

Upstream: `pgflo.worker`. Downstream: `prepare`, `transaction`, `range_copy`, each through a session
that this file opens.
Invariant: errors of the server leave here as `PgfloError`; a session ends with whoever opened it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import psycopg

from pgflo.rules.check import check
from pgflo.rules.spec import NOTHING
from pgflo.sinks.contract import Taken
from pgflo.sinks.postgres import assignment, progress
from pgflo.sinks.postgres.connection import Destination, failure
from pgflo.sinks.postgres.landing import Target, target_of
from pgflo.sinks.postgres.prepare import find_tables, prepare, tables_through_root
from pgflo.sinks.postgres.range_copy import RangeCopy, copied_ranges
from pgflo.sinks.postgres.tables import sink_tables
from pgflo.sinks.postgres.transaction import Transactions

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg.rows import TupleRow

    from pgflo.broker.records import TableRecord
    from pgflo.rules.bind import Bound
    from pgflo.sinks.contract import Body, Progress, Range, Ranges, Start
    from pgflo.sinks.postgres.prepare import NotEmpty
    from pgflo.sinks.postgres.transaction import Applied


@dataclass(frozen=True, slots=True)
class PostgresSink(Destination):
    """A destination with the source's partitions, which its writers need to know."""

    not_empty: NotEmpty = "error"
    roots: Mapping[int, tuple[str, str] | None] = field(default_factory=dict)

    kind: ClassVar[str] = "postgres"
    most_copy_writers: ClassVar[int | None] = None

    def take_over(self, start: Start, *, again: bool) -> Taken:
        """Take all progress rows; empty the tables for a new incarnation."""
        tables = sink_tables(start.tables, start.bound, copied=start.is_copied)
        with self.connect("worker", warn=not again) as conn:
            if start.bound is not None:
                check(conn, start.bound, start.tables, tables)
            has_begun = prepare(
                conn,
                self,
                tables,
                start.incarnation,
                start.start_lsn,
                self.not_empty,
                again=again,
            )
            through_root = tables_through_root(conn, tables)
        sink = replace(
            self,
            through_root=through_root,
            roots={table.oid: table.root for table in tables if table.root},
            snapshots=start.snapshots,
            spec=start.bound.spec if start.bound else NOTHING,
        )
        return Taken(sink, (start.start_lsn, 0), start.start_lsn, has_begun)

    def copied_ranges(self, incarnation: uuid.UUID) -> Ranges:
        """Read the ledger."""
        with self.connect("copy") as conn:
            return copied_ranges(conn, self, incarnation)

    def targets(self, tables: Sequence[TableRecord], bound: Bound | None) -> dict[int, Target]:
        """Find the destination's tables."""
        with self.connect("copy") as conn:
            found = find_tables(conn, sink_tables(tables, bound, copied=True))
        return {table.oid: target_of(table, found, bound) for table in tables}

    def start_streaming(self, start_lsn: int) -> None:
        """Say in all rows that the copy is complete."""
        with self.connect("worker") as conn:
            progress.start_streaming(conn, self, start_lsn)

    def open_writer(self, shard: int) -> PostgresWriter:
        """Connect, and take the shard's row."""
        conn = self.connect(f"shard{shard}")
        try:
            with _telling("taking the progress row"):
                return PostgresWriter(conn, self, progress.take(conn, self, shard))
        except BaseException:
            conn.close()
            raise

    def open_ranges(self, number: int, incarnation: uuid.UUID) -> PostgresRanges:
        """Connect."""
        return PostgresRanges(self.connect(f"copy{number}"), self, incarnation)


class PostgresWriter:
    """The transactions of one shard, and the connection they go through."""

    idle_s: ClassVar[float | None] = None

    def __init__(
        self, conn: psycopg.Connection[TupleRow], to: PostgresSink, held: Progress
    ) -> None:
        self.held = held
        self._conn = conn
        self._to = to
        self._transactions = Transactions(conn, to, held, to.roots)

    @property
    def position(self) -> tuple[int, int]:
        """Up to where changes are applied, committed or not."""
        return self._transactions.position

    def write(self, bodies: Sequence[Body], *, is_divisible: bool) -> None:
        """Apply bodies inside the open transaction, or begin one."""
        with _telling("applying changes"):
            self._transactions.step(bodies, is_divisible=is_divisible)

    def commit(
        self,
        end: tuple[int, int],
        end_lsn: int,
        *,
        others: Sequence[Progress] = (),
        assignment: str = "",
    ) -> Applied:
        """Move the rows and commit."""
        with _telling("committing changes"):
            if assignment:
                self._assign(assignment)
            return self._transactions.commit(end, end_lsn, others)

    def _assign(self, text: str) -> None:
        assignment.write(self._conn, self._to, assignment.from_json(text))

    def moved(self, position: tuple[int, int], end_lsn: int) -> None:
        """Take note that a barrier has moved the row."""
        self._transactions.moved(position, end_lsn)

    def idle(self) -> None:
        """Nothing is ever due."""

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """End the session; what is not committed is rolled back."""
        self._conn.close()


class PostgresRanges(RangeCopy):
    """Ranges, and the connection they go through."""

    def is_known(self, wanted: Range) -> bool:
        """Whether the ledger has the range."""
        with _telling("copying"):
            return super().is_known(wanted)

    def abandon(self) -> None:
        """Roll back what is begun."""
        with _telling("copying"):
            super().abandon()

    def close(self) -> None:
        """End the session; a range under way is rolled back."""
        self._conn.close()


@contextlib.contextmanager
def _telling(doing: str) -> Iterator[None]:
    """Tell what the server says by kind."""
    try:
        yield
    except psycopg.Error as error:
        raise failure(error, doing) from None
