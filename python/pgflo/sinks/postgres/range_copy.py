"""One range of the initial copy: its rows and its row in the ledger, in one transaction.

Upstream: a copy writer process hands over the parts of a lane, one after the other. Downstream:
COPY … FROM STDIN at the destination.
Invariant: a range is committed once, with as many rows as the source counted (less those that rules
drop, each of which is counted too), and only while the run and the incarnation stand in the
progress row. In any doubt it is rolled back, and an attempt that follows does it again. The table's
lock comes before the progress row's, as in `prepare`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.rules.bind import compiled
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.connection import failure

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from psycopg.rows import TupleRow

    from pgflo.broker.records import TableRecord
    from pgflo.sinks.postgres.connection import Destination

Ruled = tuple[int, int, int]
"""What a rule did: its number, rows dropped, rows changed."""


@dataclass(frozen=True, slots=True)
class Range:
    """One attempt at a range."""

    oid: int
    snapshot_lsn: int
    range_no: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Target:
    """Where the rows of a source table go."""

    schema: str
    name: str
    columns: tuple[str, ...]
    snapshot_lsn: int
    """Consistent point of the snapshot that its rows are copied in; no other's are taken."""
    source: TableRecord | None = None
    """The table whose program rows go through; None: they pass unparsed."""
    others: tuple[Target, ...] = ()
    """Further destinations of that program, in its order."""

    @property
    def label(self) -> str:
        """schema.table, for people."""
        return f"{self.schema}.{self.name}"


class AbandonedError(Exception):
    """Tells psycopg to end a COPY without its rows."""


class RangeCopy:
    """Loads ranges through one connection, one at a time."""

    def __init__(
        self, conn: psycopg.Connection[TupleRow], to: Destination, incarnation: uuid.UUID
    ) -> None:
        self._conn = conn
        self._to = to
        self._rules = to.spec.compiled() if to.spec else None
        self._rewriter: _core.CopyRewriter | None = None
        self._passed_rows = 0
        """Rows of the range that rules let through to a table that is copied to all along."""
        self._incarnation = incarnation
        self._range: Range | None = None
        self._target: Target | None = None
        self._cursor: psycopg.Cursor[TupleRow] | None = None
        self._context: AbstractContextManager[psycopg.Copy] | None = None
        self._copy: psycopg.Copy | None = None

    def is_known(self, wanted: Range) -> bool:
        """Whether the range is committed already."""
        found = self._conn.execute(
            "SELECT FROM pgflo.copied_ranges WHERE group_name = %(group)s AND sink = %(sink)s"
            " AND incarnation = %(incarnation)s AND relation_oid = %(oid)s"
            " AND snapshot_lsn = %(snapshot)s AND range_no = %(range)s",
            self._ids(wanted),
        )
        return found.rowcount > 0

    def begin(self, wanted: Range, target: Target) -> None:
        """Begin the COPY of a range that is not known. Raises `PgfloError`, as `write` does."""
        with _naming(wanted, target):
            self._begin(wanted, target)

    def _begin(self, wanted: Range, target: Target) -> None:
        self._conn.execute("BEGIN")
        self._cursor = self._conn.cursor()
        self._rewriter, self._passed_rows = self._program(target), 0
        if not target.others:
            # Entered here, left in `commit` or `abandon`; it ends the COPY when nobody holds it.
            self._context = self._cursor.copy(_copy_query(target))
            self._copy = self._context.__enter__()
        self._range, self._target = wanted, target

    def _program(self, target: Target) -> _core.CopyRewriter | None:
        if target.source is None or self._rules is None:
            return None
        program = compiled(self._rules, target.source)
        return _core.CopyRewriter(program, len(self._rules.labels))

    def write(self, rows: memoryview) -> None:
        """Send a piece of the rows; pieces may end inside a row. Raises `_core.RulesError` too."""
        if self._range is None or self._target is None:
            message = "no range is begun"
            raise RuntimeError(message)
        with _naming(self._range, self._target):
            if self._rewriter is None:
                self._send(rows)
                return
            pieces = self._rewriter.feed(rows)
            if self._copy is not None:
                self._passed_rows += pieces[0][1]
                self._send(pieces[0][0])
                return
            for to, (data, passed_rows) in zip(
                (self._target, *self._target.others), pieces, strict=True
            ):
                if passed_rows:
                    self._send_piece(to, data, passed_rows)

    def _send(self, rows: memoryview | bytes) -> None:
        if self._copy is None:
            message = "no range is begun"
            raise RuntimeError(message)
        self._copy.write(rows)

    def _send_piece(self, to: Target, data: bytes, passed_rows: int) -> None:
        """Copy whole rows: a connection copies into one table at a time."""
        cursor = self._conn.cursor()
        with cursor.copy(_copy_query(to)) as copy:
            copy.write(data)
        if cursor.rowcount != passed_rows:
            raise PgfloError(
                errors.SINK_ROW_COUNT,
                f"{to.label}: {passed_rows} rows were sent, {cursor.rowcount} arrived",
                table=to.label,
            )

    def commit(self, total_rows: int) -> list[Ruled]:
        """End the COPY, check, book and commit the range; give what rules did.

        Raises `PgfloError` SINK_ROW_COUNT, GROUP_SUPERSEDED, or what the server said.
        """
        context, cursor, done, target = self._context, self._cursor, self._range, self._target
        if cursor is None or done is None or target is None:
            message = "no range is begun"
            raise RuntimeError(message)
        rewriter, counts = self._rewriter, list[Ruled]()
        self._context = self._copy = self._cursor = self._range = self._rewriter = None
        with _naming(done, target):
            if context is not None:
                context.__exit__(None, None, None)
            try:
                read_rows, passed_rows = total_rows, total_rows
                if rewriter is not None:
                    read_rows, counts = rewriter.finish()
                    passed_rows = self._passed_rows
                arrived_rows = passed_rows if context is None else cursor.rowcount
                self._check(done, target, (total_rows, read_rows), (passed_rows, arrived_rows))
                self._book(done, total_rows)
            except (PgfloError, _core.CoreError):
                self._conn.execute("ROLLBACK")
                raise
            self._conn.execute("COMMIT")
        return counts

    @staticmethod
    def _check(done: Range, target: Target, *counts: tuple[int, int]) -> None:
        """See that what was sent is what came, both from the source and to the destination."""
        for sent_rows, arrived_rows in counts:
            if arrived_rows != sent_rows:
                raise PgfloError(
                    errors.SINK_ROW_COUNT,
                    f"range {done.range_no} of {target.label}: {sent_rows} rows were read,"
                    f" {arrived_rows} arrived",
                    table=target.label,
                )

    def _book(self, done: Range, total_rows: int) -> None:
        self._hold_run(done)
        self._conn.execute(
            "INSERT INTO pgflo.copied_ranges (group_name, sink, incarnation, relation_oid,"
            " snapshot_lsn, range_no, attempt, row_count) VALUES (%(group)s, %(sink)s,"
            " %(incarnation)s, %(oid)s, %(snapshot)s, %(range)s, %(attempt)s, %(rows)s)",
            {**self._ids(done), "attempt": done.attempt, "rows": total_rows},
        )

    def abandon(self) -> None:
        """Roll back what is begun, if anything is."""
        context, cursor = self._context, self._cursor
        self._context = self._copy = self._cursor = self._range = self._rewriter = None
        if context is not None:
            with contextlib.suppress(AbandonedError):
                context.__exit__(AbandonedError, AbandonedError(), None)
        if cursor is not None:
            self._conn.execute("ROLLBACK")

    def _hold_run(self, done: Range) -> None:
        """Keep the progress row ours until the commit."""
        held = self._conn.execute(
            "SELECT FROM pgflo.progress WHERE group_name = %(group)s AND sink = %(sink)s"
            " AND shard = %(shard)s AND incarnation = %(incarnation)s AND owner = %(owner)s"
            " FOR SHARE",
            {**self._ids(done), "shard": progress.FIRST, "owner": self._to.owner},
        )
        if held.rowcount != 1:
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


def _copy_query(target: Target) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(target.schema, target.name),
        sql.SQL(", ").join(map(sql.Identifier, target.columns)),
    )


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
