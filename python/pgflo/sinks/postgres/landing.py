"""The rows of one range into COPY: unparsed, turned into text, or through rules to their tables.

Upstream: `range_copy`, which owns transaction and ledger. Downstream: COPY … FROM STDIN.
Invariant: rows that no rule concerns go as they came; what rules let through is counted here, and
what arrived by the server.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.rules.destinations import destined
from pgflo.rules.spec import compiled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    import psycopg
    from psycopg.rows import TupleRow

    from pgflo.broker.records import TableRecord
    from pgflo.rules.bind import Bound
    from pgflo.rules.destinations import Destined
    from pgflo.sinks.contract import Ruled
    from pgflo.sinks.postgres.catalog import Table

BINARY_TWINS = {1043: 25}
"""Types whose binary form is that of another: varchar, text."""


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
    source: TableRecord | None = None
    """The table whose rules rows go through; None: they pass unparsed."""
    others: tuple[Target, ...] = ()
    """Further destinations, in the order of the rules' routes."""

    @property
    def label(self) -> str:
        """schema.table, for people."""
        return f"{self.schema}.{self.name}"


def target_of(table: TableRecord, found: Mapping[int, Table], bound: Bound | None = None) -> Target:
    """Tell where the rows of a source table go; `found` by the OID that changes name it by."""
    is_ruled = bound is not None and not bound.programs[table.oid].copies_as_is
    first, *others = (
        _target(table, found[to.oid], to, is_ruled=is_ruled) for to in destined(table, bound)
    )
    return replace(first, others=tuple(others))


def _target(table: TableRecord, found: Table, to: Destined, *, is_ruled: bool) -> Target:
    types = tuple(column.type_oid for column in table.columns)
    own = [found.columns[here].type_oid for _, here in to.columns]
    return Target(
        found.schema,
        found.name,
        tuple(here for _, here in to.columns),
        table.snapshot_lsn,
        types,
        takes_binary=not is_ruled
        and all(
            BINARY_TWINS.get(theirs, theirs) == BINARY_TWINS.get(ours, ours)
            for theirs, ours in zip(types, own, strict=True)
        ),
        source=table if is_ruled else None,
    )


@dataclass(frozen=True, slots=True)
class Landed:
    """What became of a range's rows."""

    read_rows: int | None
    """Rows that came; None: nobody counted."""
    passed_rows: int | None
    """Those that rules let through; None: all of them."""
    arrived_rows: int
    """As the server counted."""
    counts: list[Ruled]


class AbandonedError(Exception):
    """Tells psycopg to end a COPY without its rows."""


class Landing:
    """The rows of one range, inside the transaction that the caller opened."""

    def __init__(
        self,
        conn: psycopg.Connection[TupleRow],
        target: Target,
        rules: _core.RuleSet | None,
        *,
        is_binary: bool,
    ) -> None:
        """Begin. Rows that come in binary are turned into text where they must be read."""
        self._conn = conn
        self._targets = (target, *target.others)
        self._to_text: _core.BinaryToText | None = None
        if is_binary and not target.takes_binary:
            self._to_text = _core.BinaryToText(list(target.source_types))
        self._rewriter: _core.CopyRewriter | None = None
        if target.source is not None and rules is not None:
            program = compiled(rules, target.source)
            self._rewriter = _core.CopyRewriter(program, len(rules.labels))
        self._passed_rows = self._arrived_rows = 0
        self._cursor = conn.cursor()
        self._context: AbstractContextManager[psycopg.Copy] | None = None
        self._copy: psycopg.Copy | None = None
        if len(self._targets) == 1:
            # Entered here, left in `finish` or `abandon`; it ends the COPY when nobody holds it.
            is_as_it_came = is_binary and self._to_text is None
            self._context = self._cursor.copy(_query(target, is_binary=is_as_it_came))
            self._copy = self._context.__enter__()

    def write(self, rows: memoryview) -> None:
        """Send a piece of the rows; pieces may end inside a row.

        Raises `_core.RulesError`, and what the server said.
        """
        text = self._to_text.feed(rows) if self._to_text else rows
        if self._rewriter is None:
            self._send(text)
            return
        for to, (data, passed_rows) in zip(self._targets, self._rewriter.feed(text), strict=True):
            self._passed_rows += passed_rows
            if self._copy is not None:
                self._send(data)
            elif passed_rows:
                self._send_piece(to, data, passed_rows)

    def _send(self, rows: memoryview | bytes) -> None:
        if self._copy is None:
            message = "the rows of several tables cannot go into one COPY"
            raise RuntimeError(message)
        self._copy.write(rows)

    def _send_piece(self, to: Target, data: bytes, passed_rows: int) -> None:
        """Copy whole rows: a connection copies into one table at a time."""
        with self._cursor.copy(_query(to, is_binary=False)) as copy:
            copy.write(data)
        if self._cursor.rowcount != passed_rows:
            raise PgfloError(
                errors.SINK_ROW_COUNT,
                f"{to.label}: {passed_rows} rows were sent, {self._cursor.rowcount} arrived",
                table=to.label,
            )
        self._arrived_rows += passed_rows

    def finish(self) -> Landed:
        """End the COPY; tell what became of the rows."""
        if self._to_text is not None:
            self._to_text.finish()
        context, self._context = self._context, None
        if context is not None:
            context.__exit__(None, None, None)
            self._arrived_rows = self._cursor.rowcount
        if self._rewriter is None:
            return Landed(None, None, self._arrived_rows, [])
        read_rows, counts = self._rewriter.finish()
        return Landed(read_rows, self._passed_rows, self._arrived_rows, counts)

    def abandon(self) -> None:
        """End the COPY without its rows."""
        context, self._context = self._context, None
        if context is not None:
            with contextlib.suppress(AbandonedError):
                context.__exit__(AbandonedError, AbandonedError(), None)


def _query(target: Target, *, is_binary: bool) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {})").format(
        sql.Identifier(target.schema, target.name),
        sql.SQL(", ").join(map(sql.Identifier, target.columns)),
        sql.SQL("binary" if is_binary else "text"),
    )
