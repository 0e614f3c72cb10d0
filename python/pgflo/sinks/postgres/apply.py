"""Applies the changes of one body in source order, inside the transaction that the caller opened.

Upstream: `transaction` hands over bodies of change envelopes. Downstream: the native replay, which
runs prepared statements pipelined; this file answers what it asks: tables, statements, truncates.
Invariant: whatever does not go as the source's changes say is raised, never passed over; the caller
then rolls back to its savepoint.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import structlog
from psycopg import pq, sql

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.sinks.postgres.catalog import Table, find_table
from pgflo.sinks.postgres.connection import failure, kind_of
from pgflo.sinks.postgres.contention import heals
from pgflo.sinks.postgres.statements import Change, Source, Text, plan
from pgflo.sinks.postgres.truncate import truncate
from pgflo.source.pump import native_pump

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg.rows import TupleRow

log = structlog.get_logger("pgflo.sinks.postgres")

T = TypeVar("T")

OPERATIONS = {"I": "INSERT", "U": "UPDATE", "D": "DELETE"}


class NotAsExpectedError(Exception):
    """Normal mode met an error or a row count other than one: roll back, apply again carefully."""


@dataclass(frozen=True, slots=True)
class Body:
    """One logical body of the change stream: the changes behind position `prev`, up to `end`."""

    data: bytes | memoryview
    prev: tuple[int, int]
    end: tuple[int, int]


class Applier:
    """Applies bodies through one connection. Statements are prepared once and kept."""

    def __init__(
        self,
        conn: psycopg.Connection[TupleRow],
        roots: Mapping[int, tuple[str, str] | None],
        through_root: frozenset[int] = frozenset(),
    ) -> None:
        """`roots`: partition root by source oid, where the destination may lack the leaf.

        `through_root`: leaves that it has with other bounds.
        """
        pump = native_pump(conn.pgconn)
        if pump is None:
            raise PgfloError(
                errors.BINARY_MISSING,
                "the native core does not fit the libpq that psycopg loaded",
                hint="Install psycopg[binary] of the locked version: `make install`.",
            )
        self._conn = conn
        self._roots = roots
        self._through_root = through_root
        self._replay = _core.Replay(pump)
        self._relations: dict[int, _core.Relation] = {}
        self._tables: dict[int, Table] = {}
        self._prepared: dict[int, list[str]] = {}
        self._numbers = itertools.count(1)

    def apply(
        self, body: Body, after: tuple[int, int], *, careful: bool
    ) -> tuple[int, Counter[str]]:
        """Apply what stands behind `after`; give the number of changes, and conflicts by kind.

        Raises `NotAsExpectedError` in normal mode, `PgfloError` with table and position in careful
        mode and for what no mode can mend.
        """
        self._replay.load(body.data, body.prev, after)
        while True:
            step = self._replay.run(careful=careful)
            match step.kind:
                case _core.STEP_DONE:
                    return step.changes, Counter(step.conflicts)
                case _core.STEP_RELATION:
                    self._learn(step)
                case _core.STEP_STATEMENT:
                    self._answer(step)
                case _core.STEP_TRUNCATE:
                    self._truncate(step)
                case _core.STEP_MESSAGE:
                    continue  # it holds an ordinal, and nothing for a table
                case _core.STEP_FAILED if not careful and not heals(step.sqlstate):
                    raise NotAsExpectedError
                case _:
                    raise self._refusal(step)

    # --- relations

    def _learn(self, step: _core.Step) -> None:
        relation = _given(step.relation)
        self._replay.forget(relation.oid)
        self._relations[relation.oid] = relation
        self._tables.pop(relation.oid, None)
        for name in self._prepared.pop(relation.oid, ()):
            self._conn.execute(sql.SQL("DEALLOCATE {}").format(sql.Identifier(name)))

    def _table(self, relation: _core.Relation, position: str) -> Table:
        table = self._tables.get(relation.oid)
        if table is None:
            table = find_table(
                self._conn,
                relation.schema,
                relation.name,
                self._roots.get(relation.oid),
                through_root=relation.oid in self._through_root,
            )
            if table is None:
                raise PgfloError(
                    errors.SINK_TABLE_MISSING,
                    f"the destination has no table {_label(relation)}, which changes at {position}",
                    table=_label(relation),
                    position=position,
                )
            self._tables[relation.oid] = table
        return table

    # --- statements

    def _answer(self, step: _core.Step) -> None:
        shape = _given(step.shape)
        relation = self._relations[shape.relation_oid]
        position = _position(step)
        table = self._table(relation, position)
        change = Change(shape.op, shape.old, frozenset(shape.unchanged), shape.careful)
        source = Source(
            tuple(column.name for column in relation.columns),
            tuple(number for number, column in enumerate(relation.columns) if column.key),
            full=relation.replica_identity == "f",
        )
        try:
            chosen = plan(change, source, table)
        except PgfloError as error:
            raise _placed(error, position) from None
        primary = self._prepare(relation, chosen.primary, position)
        fallback = self._prepare(relation, chosen.fallback, position)
        statement = (
            _core.Statement(None, [])
            if primary is None
            else _core.Statement(*primary, fallback=fallback, conflict=chosen.conflict)
        )
        self._replay.register(shape.id, statement)

    def _prepare(
        self, relation: _core.Relation, text: Text | None, position: str
    ) -> tuple[str, list[tuple[str, int]]] | None:
        if text is None:
            return None
        name = f"pgflo_{next(self._numbers)}"
        result = self._conn.pgconn.prepare(
            name.encode(), text.query.as_bytes(self._conn), text.types
        )
        if result.status != pq.ExecStatus.COMMAND_OK:
            error = psycopg.errors.error_from_result(result)
            doing = f"cannot prepare a statement for {_label(relation)}, needed at {position}"
            raise _placed(failure(error, doing), position, table=_label(relation))
        self._prepared.setdefault(relation.oid, []).append(name)
        return name, list(text.params)

    # --- truncates

    def _truncate(self, step: _core.Step) -> None:
        position = _position(step)
        tables = [self._truncatable(relation, step, position) for relation in step.truncated]
        try:
            truncate(self._conn, tables, restart_identity=step.restart_identity)
        except psycopg.Error as error:
            names = ", ".join(map(_label, step.truncated))
            raise _placed(failure(error, f"TRUNCATE of {names} at {position}"), position) from error

    def _truncatable(self, relation: _core.Relation, step: _core.Step, position: str) -> Table:
        """Find the table to empty. A root stands for its leaves only if all of them are emptied."""
        table = self._table(relation, position)
        if (table.schema, table.name) == (relation.schema, relation.name):
            return table
        root = self._roots.get(relation.oid)
        leaves = {oid for oid, other in self._roots.items() if other == root}
        if leaves <= {other.oid for other in step.truncated}:
            return table
        raise PgfloError(
            errors.SINK_REFUSED,
            f"TRUNCATE of partition {_label(relation)} at {position}: the destination has only"
            f" {table.schema}.{table.name}, whose other rows must stay",
            hint="Create the partition at the destination, or delete its rows there by hand and"
            " `pgflo replicate --restart`.",
            table=_label(relation),
            position=position,
        )

    # --- refusals

    def _refusal(self, step: _core.Step) -> PgfloError:
        relation = step.relation
        table = _label(relation) if relation else "an unknown table"
        operation = OPERATIONS.get(step.shape.op, "change") if step.shape else "change"
        position = _position(step)
        context: dict[str, Any] = {"table": table, "position": position}
        if step.constraint:
            context["constraint"] = step.constraint
        if step.sqlstate:
            why = f"SQLSTATE {step.sqlstate} ({_condition(step.sqlstate)})"
            if step.constraint:
                why += f", constraint {step.constraint}"
            return PgfloError(
                kind_of(step.sqlstate), f"{operation} on {table} at {position}: {why}", **context
            )
        why = (
            "it finds no row, and cannot be made an INSERT: the source did not send every value"
            if step.matched_rows == 0
            else f"it hits {step.matched_rows} rows instead of one"
        )
        return PgfloError(
            errors.SINK_REFUSED, f"{operation} on {table} at {position}: {why}", **context
        )


def _given(value: T | None) -> T:
    if value is None:
        message = "the native replay left out what its step must carry"
        raise RuntimeError(message)
    return value


def _label(relation: _core.Relation) -> str:
    return f"{relation.schema}.{relation.name}"


def _position(step: _core.Step) -> str:
    return f"{_core.lsn_format(step.commit_lsn)}:{step.ordinal}"


def _condition(sqlstate: str) -> str:
    try:
        return psycopg.errors.lookup(sqlstate).__name__
    except KeyError:
        return "unknown condition"


def _placed(error: PgfloError, position: str, **context: str) -> PgfloError:
    """Add where it happened."""
    merged: dict[str, Any] = {**error.context, **context, "position": position}
    detail = error.detail if position in error.detail else f"{error.detail} (change at {position})"
    return PgfloError(error.kind, detail, hint=error.hint, **merged)
