"""One range of the initial copy: its rows and its row in the ledger, in one transaction.

Upstream: a copy writer process hands over the parts of a lane, one after the other. Downstream:
COPY … FROM STDIN at the destination.
Invariant: a range is committed once, with as many rows as the source counted, and only while the
run and the incarnation stand in the progress row, and the range's snapshot in the table's row of
`copies`. In any doubt it is rolled back, and an attempt
that follows does it again. The table's lock comes before those of the rows, as in `prepare`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.connection import failure

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from psycopg.rows import TupleRow

    from pgflo.broker.records import TableRecord
    from pgflo.sinks.contract import Range
    from pgflo.sinks.postgres.catalog import Table
    from pgflo.sinks.postgres.connection import Destination


@dataclass(frozen=True, slots=True)
class Target:
    """Where the rows of a source table go."""

    schema: str
    name: str
    columns: tuple[str, ...]
    snapshot_lsn: int
    """Consistent point of the snapshot that its rows are copied in; no other's are taken."""
    source_types: tuple[int, ...]
    """OIDs of the columns' types at the source."""
    takes_binary: bool
    """Its columns have the same types: rows in binary mean here what they mean there."""

    @property
    def label(self) -> str:
        """schema.table, for people."""
        return f"{self.schema}.{self.name}"


BINARY_TWINS = {1043: 25}
"""Types whose binary form is that of another: varchar, text."""


def target_of(table: TableRecord, found: Table) -> Target:
    """Tell where the rows of a source table go: into `found`."""
    types = tuple(column.type_oid for column in table.columns)
    own = (found.columns[column.name].type_oid for column in table.columns)
    return Target(
        found.schema,
        found.name,
        tuple(column.name for column in table.columns),
        table.snapshot_lsn,
        types,
        takes_binary=all(
            BINARY_TWINS.get(theirs, theirs) == BINARY_TWINS.get(ours, ours)
            for theirs, ours in zip(types, own, strict=True)
        ),
    )


class AbandonedError(Exception):
    """Tells psycopg to end a COPY without its rows."""


class RangeCopy:
    """Loads ranges through one connection, one at a time."""

    def __init__(
        self, conn: psycopg.Connection[TupleRow], to: Destination, incarnation: uuid.UUID
    ) -> None:
        self._conn = conn
        self._to = to
        self._incarnation = incarnation
        self._range: Range | None = None
        self._target: Target | None = None
        self._cursor: psycopg.Cursor[TupleRow] | None = None
        self._context: AbstractContextManager[psycopg.Copy] | None = None
        self._copy: psycopg.Copy | None = None
        self._to_text: _core.BinaryToText | None = None
        """For rows in binary that the destination would read as others."""

    def is_known(self, wanted: Range) -> bool:
        """Whether the range is committed already."""
        found = self._conn.execute(
            "SELECT FROM pgflo.copied_ranges WHERE group_name = %(group)s AND sink = %(sink)s"
            " AND incarnation = %(incarnation)s AND relation_oid = %(oid)s"
            " AND snapshot_lsn = %(snapshot)s AND range_no = %(range)s",
            self._ids(wanted),
        )
        return found.rowcount > 0

    def begin(self, wanted: Range, target: Target, *, is_binary: bool) -> None:
        """Begin the COPY of a range that is not known, whose rows come in this format.

        Raises `PgfloError`, as `write` does.
        """
        self._to_text = None
        if is_binary and not target.takes_binary:
            self._to_text = _core.BinaryToText(list(target.source_types))
        with _naming(wanted, target):
            self._begin(wanted, target, is_binary=is_binary and self._to_text is None)

    def _begin(self, wanted: Range, target: Target, *, is_binary: bool) -> None:
        self._conn.execute("BEGIN")
        self._cursor = self._conn.cursor()
        # Entered here, left in `commit` or `abandon`; it ends the COPY when nobody holds it.
        self._context = self._cursor.copy(
            sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
                sql.Identifier(target.schema, target.name),
                sql.SQL(", ").join(map(sql.Identifier, target.columns)),
                sql.SQL("binary" if is_binary else "text"),
            )
        )
        self._copy = self._context.__enter__()
        self._range, self._target = wanted, target

    def write(self, rows: memoryview) -> None:
        """Send a piece of the rows; pieces may end inside a row."""
        if self._copy is None or self._range is None or self._target is None:
            message = "no range is begun"
            raise RuntimeError(message)
        with _naming(self._range, self._target):
            self._copy.write(self._to_text.feed(rows) if self._to_text else rows)

    def commit(self, total_rows: int) -> None:
        """End the COPY, check, book and commit the range.

        Raises `PgfloError` SINK_ROW_COUNT, GROUP_SUPERSEDED, or what the server said.
        """
        context, cursor, done, target = self._context, self._cursor, self._range, self._target
        if context is None or cursor is None or done is None or target is None:
            message = "no range is begun"
            raise RuntimeError(message)
        self._context = self._copy = self._cursor = self._range = None
        if self._to_text is not None:
            self._to_text.finish()
        with _naming(done, target):
            context.__exit__(None, None, None)
            try:
                self._book(done, target, total_rows, cursor.rowcount)
            except PgfloError:
                self._conn.execute("ROLLBACK")
                raise
            self._conn.execute("COMMIT")

    def _book(self, done: Range, target: Target, total_rows: int, arrived_rows: int) -> None:
        if arrived_rows != total_rows:
            raise PgfloError(
                errors.SINK_ROW_COUNT,
                f"range {done.range_no} of {target.label}: {total_rows} rows were read,"
                f" {arrived_rows} arrived",
                table=target.label,
            )
        self._hold_run(done)
        self._conn.execute(
            "INSERT INTO pgflo.copied_ranges (group_name, sink, incarnation, relation_oid,"
            " snapshot_lsn, range_no, attempt, row_count) VALUES (%(group)s, %(sink)s,"
            " %(incarnation)s, %(oid)s, %(snapshot)s, %(range)s, %(attempt)s, %(rows)s)",
            {**self._ids(done), "attempt": done.attempt, "rows": total_rows},
        )

    def abandon(self) -> None:
        """Roll back what is begun, if anything is."""
        context = self._context
        self._context = self._copy = self._cursor = self._range = None
        if context is not None:
            with contextlib.suppress(AbandonedError):
                context.__exit__(AbandonedError, AbandonedError(), None)
            self._conn.execute("ROLLBACK")

    def _hold_run(self, done: Range) -> None:
        """Keep the progress row ours, and the table this copy's, until the commit."""
        held = self._conn.execute(
            "SELECT FROM pgflo.progress WHERE group_name = %(group)s AND sink = %(sink)s"
            " AND shard = %(shard)s AND incarnation = %(incarnation)s AND owner = %(owner)s"
            " FOR SHARE",
            {**self._ids(done), "shard": progress.FIRST, "owner": self._to.owner},
        )
        fits = self._conn.execute(
            "SELECT FROM pgflo.copies WHERE group_name = %(group)s AND sink = %(sink)s"
            " AND relation_oid = %(oid)s AND incarnation = %(incarnation)s"
            " AND snapshot_lsn = %(snapshot)s FOR SHARE",
            self._ids(done),
        )
        if held.rowcount != 1 or fits.rowcount != 1:
            raise progress.superseded(self._to)

    def _ids(self, wanted: Range) -> dict[str, object]:
        return {
            "group": self._to.group,
            "sink": self._to.sink,
            "incarnation": self._incarnation,
            "oid": wanted.oid,
            "snapshot": _core.lsn_format(wanted.snapshot_lsn),
            "range": wanted.range_no,
        }


@contextlib.contextmanager
def _naming(wanted: Range, target: Target) -> Iterator[None]:
    """Tell a server error with the range it belongs to."""
    try:
        yield
    except psycopg.Error as error:
        doing = f"copying range {wanted.range_no} of {target.label}"
        raise failure(error, doing) from None


def copied_ranges(
    conn: psycopg.Connection[TupleRow], to: Destination, incarnation: uuid.UUID
) -> dict[tuple[int, int], dict[int, int]]:
    """Read the ledger: by (source oid, snapshot LSN) the rows of each committed range."""
    found: dict[tuple[int, int], dict[int, int]] = {}
    for oid, snapshot, range_no, rows in conn.execute(
        "SELECT relation_oid, snapshot_lsn::text, range_no, row_count FROM pgflo.copied_ranges"
        " WHERE group_name = %s AND sink = %s AND incarnation = %s",
        (to.group, to.sink, incarnation),
    ):
        found.setdefault((oid, _core.lsn_parse(snapshot)), {})[range_no] = rows
    return found
