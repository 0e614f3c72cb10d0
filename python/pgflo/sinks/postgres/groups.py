"""Applies an epoch as net effects: a few statements for all rows of a table.

Upstream: `transaction` hands over the bodies of an epoch. Downstream: the native `NetEffect`
collects, the destination takes arrays and COPY rows; tables that cannot be taken so go to `apply`.
Invariant: whatever does not go exactly as the source's changes say is raised as
`NotAsExpectedError`, and the caller replays the epoch; this is a shorter way to the same rows and
never the only one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import psycopg
from psycopg import pq

from pgflo import _core
from pgflo.errors import Retry
from pgflo.sinks.postgres import group_statements
from pgflo.sinks.postgres.apply import NotAsExpectedError, deallocate
from pgflo.sinks.postgres.catalog import find_table
from pgflo.sinks.postgres.connection import failure, kind_of
from pgflo.sinks.postgres.routes import route, slow_route
from pgflo.sinks.postgres.row_search import row_constraint, source_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg.rows import TupleRow

    from pgflo.sinks.contract import Body
    from pgflo.sinks.postgres.apply import Applier
    from pgflo.sinks.postgres.catalog import Table, UniqueKey

Position = tuple[int, int]

OPERATIONS = {"I": "INSERT", "P": "INSERT", "U": "UPDATE", "D": "DELETE"}


@dataclass(frozen=True, slots=True)
class Scan:
    """What an epoch holds."""

    changes: int
    slow_changes: int
    """Changes that replay has to take, all of them if the epoch is not fit for net effects."""
    is_fit: bool


@dataclass(frozen=True, slots=True)
class Known:
    """A relation and the table that it is written to."""

    columns: tuple[str, ...]
    table: Table
    key: UniqueKey | None


class GroupApplier:
    """Applies epochs through one connection. Statements are prepared once and kept."""

    def __init__(
        self,
        conn: psycopg.Connection[TupleRow],
        roots: Mapping[int, tuple[str, str] | None],
        through_root: frozenset[int],
        applier: Applier,
    ) -> None:
        """`applier` takes the tables that are slow. It shares the connection, and what it is told.

        `roots`: partition root by source oid, where the destination may lack the leaf;
        `through_root`: leaves that it has with other bounds.
        """
        self._conn = conn
        self._roots = roots
        self._through_root = through_root
        self._applier = applier
        self._net = _core.NetEffect()
        self._known: dict[int, Known] = {}
        self._prepared: dict[tuple[int, str, tuple[int, ...]], bytes] = {}
        self._numbers = itertools.count(1)
        self._has_scanned = False

    def scan(self, bodies: Sequence[Body], after: Position) -> Scan:
        """Collect what stands behind `after`; nothing is sent but questions to the catalog."""
        self._net.load([(body.data, body.prev) for body in bodies], after)
        while True:
            outcome, relation = self._net.run()
            if outcome == "relation" and relation is not None:
                self._net.answer(relation.oid, self._learn(relation))
            elif outcome == "done" and not self._meets_onlookers():
                self._has_scanned = True
                return Scan(*self._net.counts(), is_fit=True)
            else:
                self.drop()
                changes = sum(body.changes for body in bodies)
                return Scan(changes, changes, is_fit=False)

    def drop(self) -> None:
        """Let go of what `scan` collected."""
        self._has_scanned = False
        self._net.clear()

    def _meets_onlookers(self) -> bool:
        """Whether a trigger or rule acts on a change: it may look at any table, as it is then."""
        met = (self._known.get(oid) for oid in self._net.slow_relations())
        return any(known is not None and known.table.acts_on_rows for known in met)

    def apply(self, bodies: Sequence[Body], after: Position) -> None:
        """Apply what `scan` of the same bodies collected, or scan again if that was used up.

        Raises `NotAsExpectedError`, `PgfloError` for what time may heal.
        """
        # An epoch that is not fit is not collected: to go on would be to pass over all of it.
        if not self._has_scanned and not self.scan(bodies, after).is_fit:
            raise NotAsExpectedError
        self._has_scanned = False
        slow = self._net.slow_relations()
        place = f"{_text(after)} to {_text(bodies[-1].end)}"
        for group in self._net.take():
            self._run(group, place)
        if slow:
            for body in bodies:
                self._applier.apply(body, after, careful=False, only=slow)
                after = max(after, body.end)

    # --- relations

    def _learn(self, relation: _core.Relation) -> _core.Route:
        stale = [key for key in self._prepared if key[0] == relation.oid]
        deallocate(self._conn, [self._prepared.pop(key).decode() for key in stale])
        table = find_table(
            self._conn,
            relation.schema,
            relation.name,
            self._roots.get(relation.oid),
            through_root=relation.oid in self._through_root,
        )
        if table is None:
            return slow_route(relation)  # replay says what is missing, and where
        columns = tuple(column.name for column in relation.columns)
        self._known[relation.oid] = Known(
            columns, table, row_constraint(source_of(relation), table)
        )
        return route(relation, table)

    # --- groups

    def _run(self, group: _core.Group, place: str) -> None:
        known = self._known[group.relation_oid]
        try:
            touched = self._copy(known, group) if group.kind == "I" else self._execute(known, group)
        except psycopg.Error as error:
            self._refuse(error, known, group, place)
        if group.expected is not None and touched != group.expected:
            raise NotAsExpectedError

    def _copy(self, known: Known, group: _core.Group) -> int:
        query = group_statements.insert(known.table, [known.columns[n] for n in group.columns])
        cursor = self._conn.cursor()
        with cursor.copy(query) as copy:
            copy.write(group.data[0])
        return cursor.rowcount

    def _execute(self, known: Known, group: _core.Group) -> int:
        which = (group.relation_oid, group.kind, tuple(group.columns))
        name = self._prepared.get(which)
        if name is None:
            name = self._prepared[which] = self._prepare(known, group)
        result = self._conn.pgconn.exec_prepared(name, group.data)
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
        return result.command_tuples or 0

    def _prepare(self, known: Known, group: _core.Group) -> bytes:
        if known.key is None:
            message = "rows without a key cannot be updated as a group"
            raise RuntimeError(message)
        names = [known.columns[n] for n in group.columns]
        match group.kind:
            case "D":
                query, types = group_statements.delete(known.table, known.key)
            case "P":
                query, types = group_statements.put(known.table, known.key, names)
            case _:
                query, types = group_statements.update(known.table, known.key, names)
        name = f"pgflo_group_{next(self._numbers)}".encode()
        result = self._conn.pgconn.prepare(name, query.as_bytes(self._conn), types)
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
        return name

    def _refuse(
        self, error: psycopg.Error, known: Known, group: _core.Group, place: str
    ) -> NoReturn:
        """Leave to replay what it may meet otherwise, or can name better."""
        if kind_of(error.sqlstate).retry is Retry.BACKOFF:
            table = f"{known.table.schema}.{known.table.name}"
            doing = f"{OPERATIONS[group.kind]} of {group.rows} rows on {table} at {place}"
            raise failure(error, doing, table=table, position=place) from None
        # A table may look otherwise by now.
        self._net.forget_all()
        raise NotAsExpectedError from error


def _text(position: Position) -> str:
    return f"{_core.lsn_format(position[0])}:{position[1]}"
