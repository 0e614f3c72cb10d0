"""Applies the changes of one body in source order, inside the transaction that the caller opened.

Upstream: `transaction` hands over bodies of change envelopes. Downstream: the native replay, which
runs prepared statements pipelined; this file answers what it asks: tables, statements, truncates.
Invariant: whatever does not go as the source's changes say is raised, never passed over; the caller
then rolls back to its savepoint.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import structlog
from psycopg import pq, sql

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.sinks.postgres.catalog import Table, find_table
from pgflo.sinks.postgres.connection import failure
from pgflo.sinks.postgres.contention import heals
from pgflo.sinks.postgres.refusal import label, refusal
from pgflo.sinks.postgres.refusal import position as position_of
from pgflo.sinks.postgres.row_search import source_of
from pgflo.sinks.postgres.statements import Change, Text, plan
from pgflo.sinks.postgres.truncate import truncate
from pgflo.source.pump import native_pump

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from psycopg.rows import TupleRow

    from pgflo.sinks.contract import Body

log = structlog.get_logger("pgflo.sinks.postgres")

T = TypeVar("T")


class NotAsExpectedError(Exception):
    """Normal mode met an error or a row count other than one: roll back, apply again carefully."""


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
        self._filtered: set[int] = set()
        """Tables whose changes do not always know whether their row is there."""
        self._doubted = 0
        """Source oid of the table that normal mode failed with; 0: none."""
        self._prepared: dict[int, list[str]] = {}
        self._numbers = itertools.count(1)

    def apply(
        self,
        body: Body,
        after: tuple[int, int],
        *,
        careful: bool,
        only: list[int] | None = None,
    ) -> tuple[int, Counter[str]]:
        """Apply what stands behind `after`; give the number of changes, and conflicts by kind.

        `only`: OIDs of the relations that are wanted. Raises `NotAsExpectedError` in normal mode,
        `PgfloError` with table and position in careful mode and for what no mode can mend.
        """
        if careful:
            self._look_again()
        self._replay.load(body.data, body.prev, after, only)
        while True:
            step = self._replay.run(careful=careful)
            match step.kind:
                case _core.STEP_DONE:
                    return step.changes, self._met(step)
                case _core.STEP_RELATION:
                    self._learn(step)
                case _core.STEP_STATEMENT:
                    self._answer(step)
                case _core.STEP_TRUNCATE:
                    self._truncate(step)
                case _core.STEP_MESSAGE:
                    continue  # it holds an ordinal, and nothing for a table
                case _core.STEP_FAILED if not careful and not heals(step.sqlstate):
                    self._doubted = step.relation.oid if step.relation else 0
                    raise NotAsExpectedError
                case _:
                    oid = step.relation.oid if step.relation else 0
                    raise refusal(step, self._tables.get(oid), filtered=oid in self._filtered)

    def _met(self, step: _core.Step) -> Counter[str]:
        """Name the tables that had other rows than their changes say."""
        conflicts = Counter[str]()
        for oid, kind, changes, first in step.conflicts:
            conflicts[kind] += changes
            log.warning(
                "the destination had other rows than the changes say",
                table=label(self._relations[oid]),
                conflict=kind,
                changes=changes,
                first_at=f"{_core.lsn_format(first[0])}:{first[1]}",
            )
        return conflicts

    # --- relations

    def _learn(self, step: _core.Step) -> None:
        relation = _given(step.relation)
        self._relations[relation.oid] = relation
        self._forget(relation.oid)

    def _forget(self, oid: int) -> None:
        self._replay.forget(oid)
        self._tables.pop(oid, None)
        deallocate(self._conn, self._prepared.pop(oid, ()))

    def _look_again(self) -> None:
        """Forget how the table looked that normal mode failed with: it may be another one by now.

        Not before the transaction is back at its savepoint.
        """
        oid, self._doubted = self._doubted, 0
        if oid in self._relations:
            self._forget(oid)

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
                    f"the destination has no table {label(relation)}, which changes at {position}",
                    table=label(relation),
                    position=position,
                )
            self._tables[relation.oid] = table
        return table

    # --- statements

    def _answer(self, step: _core.Step) -> None:
        shape = _given(step.shape)
        if shape.presence:
            self._filtered.add(shape.relation_oid)
        relation = self._relations[shape.relation_oid]
        position = position_of(step)
        table = self._table(relation, position)
        change = Change(
            shape.op, shape.old, frozenset(shape.unchanged), shape.careful, shape.presence
        )
        try:
            chosen = plan(change, source_of(relation), table)
        except PgfloError as error:
            raise _placed(error, position) from None
        try:
            primary = self._prepare(relation, chosen.primary, position)
            fallback = self._prepare(relation, chosen.fallback, position)
        except PgfloError as error:
            if shape.careful or error.can_heal:
                raise
            self._doubted = relation.oid
            raise NotAsExpectedError from error
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
            doing = f"cannot prepare a statement for {label(relation)}, needed at {position}"
            raise _placed(failure(error, doing), position, table=label(relation))
        self._prepared.setdefault(relation.oid, []).append(name)
        return name, list(text.params)

    # --- truncates

    def _truncate(self, step: _core.Step) -> None:
        position = position_of(step)
        tables = [self._truncatable(relation, step, position) for relation in step.truncated]
        try:
            truncate(self._conn, tables, restart_identity=step.restart_identity)
        except psycopg.Error as error:
            names = ", ".join(map(label, step.truncated))
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
            f"TRUNCATE of partition {label(relation)} at {position}: the destination has only"
            f" {table.schema}.{table.name}, whose other rows must stay",
            hint="Create the partition at the destination, or delete its rows there by hand and"
            " `pgflo replicate --restart`.",
            table=label(relation),
            position=position,
        )


def deallocate(conn: psycopg.Connection[TupleRow], names: Iterable[str]) -> None:
    """Drop prepared statements."""
    for name in names:
        conn.execute(sql.SQL("DEALLOCATE {}").format(sql.Identifier(name)))


def _given(value: T | None) -> T:
    if value is None:
        message = "the native replay left out what its step must carry"
        raise RuntimeError(message)
    return value


def _placed(error: PgfloError, position: str, **context: str) -> PgfloError:
    """Add where it happened."""
    merged: dict[str, Any] = {**error.context, **context, "position": position}
    detail = error.detail if position in error.detail else f"{error.detail} (change at {position})"
    return PgfloError(error.kind, detail, hint=error.hint, **merged)
