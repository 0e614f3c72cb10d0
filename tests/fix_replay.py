"""Fixture `open_replay`: the least that a caller of `Replay` must do, with the plainest statements.

Upstream: `fix_slot_stream` gives envelopes. Downstream: the tests of replay. Invariant: a body is
applied in one transaction of the target, or rolled back; statements are written by psycopg.sql from
names that the source told.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, LiteralString, Protocol

import psycopg
import pytest
from psycopg import pq, sql

from pgflo import _core
from pgflo._core import Statement
from pgflo.source.pump import native_pump

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fix_postgres import Database

Param = tuple[str, int]


class Applier:
    """Applies envelopes to one target connection and remembers what replay asked for."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        pump = native_pump(connection.pgconn)
        assert pump is not None
        self.replay = _core.Replay(pump)
        self.relations: dict[int, _core.Relation] = {}
        self.steps: list[int] = []
        self.messages: list[tuple[str, bytes]] = []
        self._numbers = itertools.count(1)

    def apply(
        self, envelope: _core.Envelope, *, after: tuple[int, int] = (0, 0), careful: bool = False
    ) -> _core.Step:
        """Apply one whole envelope in a transaction; a failed one leaves nothing behind."""
        header = _core.read_header(envelope.data)
        body = envelope.data[_core.HEADER_BYTES :]
        return self.apply_body(
            body, (header.prev_commit_lsn, header.prev_ordinal), after, careful=careful
        )

    def apply_body(
        self, body: bytes, prev: tuple[int, int], after: tuple[int, int], *, careful: bool = False
    ) -> _core.Step:
        """Apply one whole body in a transaction; a failed one leaves nothing behind."""
        with self.connection.transaction() as transaction:
            self.replay.load(body, prev, after)
            while True:
                step = self.replay.run(careful=careful)
                self.steps.append(step.kind)
                if step.kind == _core.STEP_FAILED:
                    raise psycopg.Rollback(transaction)
                if step.kind == _core.STEP_DONE:
                    break
                self._answer(step)
        return step

    def _answer(self, step: _core.Step) -> None:
        if step.kind == _core.STEP_RELATION:
            assert step.relation is not None
            self.relations[step.relation.oid] = step.relation
        elif step.kind == _core.STEP_STATEMENT:
            assert step.shape is not None
            self.replay.register(step.shape.id, self._statement(step.shape))
        elif step.kind == _core.STEP_TRUNCATE:
            tables = sql.SQL(", ").join(name_of(relation) for relation in step.truncated)
            restart = sql.SQL(" RESTART IDENTITY" if step.restart_identity else "")
            self.connection.execute(sql.SQL("TRUNCATE {}{}").format(tables, restart))
        else:
            assert step.kind == _core.STEP_MESSAGE
            self.messages.append((step.prefix, step.content))

    def _statement(self, shape: _core.Shape) -> Statement:
        writer = Writer(self.relations[shape.relation_oid], shape)
        if shape.op == "I":
            if not shape.careful:
                return Statement(*self._prepared(writer.insert(sql.SQL(""))))
            # A table without a key cannot conflict, and an UPDATE could not find the row.
            fallback = writer.update("new") if writer.keys else None
            return Statement(
                *self._prepared(writer.insert(sql.SQL(" ON CONFLICT DO NOTHING"))),
                fallback=fallback and self._prepared(fallback),
                conflict="insert_exists",
            )
        if shape.op == "U":
            update = self._prepared(writer.update("old" if shape.old else "new"))
            complete = shape.careful and (shape.old == "O" or not shape.unchanged)
            fallback = writer.insert(sql.SQL("")) if complete else None
            return Statement(
                *update, fallback=fallback and self._prepared(fallback), conflict="update_missing"
            )
        return Statement(*self._prepared(writer.delete()), conflict="delete_missing")

    def _prepared(self, written: tuple[sql.Composed, list[Param]]) -> tuple[str, list[Param]]:
        query, params = written
        name = f"replay_{next(self._numbers)}"
        text = query.as_string(self.connection).encode()
        self.connection.pgconn.nonblocking = 0
        result = self.connection.pgconn.prepare(name.encode(), text)
        self.connection.pgconn.nonblocking = 1
        assert result.status == pq.ExecStatus.COMMAND_OK, (text, result.error_message)
        return name, params


class Writer:
    """SQL for one shape."""

    def __init__(self, relation: _core.Relation, shape: _core.Shape) -> None:
        self._relation = relation
        self._shape = shape
        self._numbers = range(len(relation.columns))
        self.keys = [number for number in self._numbers if relation.columns[number].key]
        if relation.replica_identity == "f":
            self.keys = []
        self._params: list[Param] = []

    def insert(self, on_conflict: sql.SQL) -> tuple[sql.Composed, list[Param]]:
        """Write an INSERT, and what follows it when the key exists."""
        self._params = []
        source = "new" if self._shape.op == "I" else "new_or_old"
        query = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}){}").format(
            name_of(self._relation),
            sql.SQL(", ").join(self._column(number) for number in self._numbers),
            sql.SQL(", ").join(self._param(source, number) for number in self._numbers),
            on_conflict,
        )
        return query, self._params

    def update(self, key_source: str) -> tuple[sql.Composed, list[Param]]:
        """Write an UPDATE that finds its row by a key of that source."""
        self._params = []
        # An identity column takes no value in an UPDATE: a key that stays is not set.
        left_out = {*self._shape.unchanged, *(() if self._shape.old else self.keys)}
        present = [number for number in self._numbers if number not in left_out] or self.keys
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(self._column(number), self._param("new", number))
            for number in present
        )
        query = sql.SQL("UPDATE {} SET {} WHERE {}").format(
            name_of(self._relation), assignments, self._found(key_source)
        )
        return query, self._params

    def delete(self) -> tuple[sql.Composed, list[Param]]:
        """Write a DELETE."""
        self._params = []
        query = sql.SQL("DELETE FROM {} WHERE {}").format(
            name_of(self._relation), self._found("old")
        )
        return query, self._params

    def _found(self, source: str) -> sql.Composable:
        """Compare the key; without one compare all columns and take one of equal rows."""
        if self.keys:
            return self._equal(source, self.keys, "{} = {}")
        return sql.SQL("ctid = (SELECT ctid FROM {} WHERE {} LIMIT 1)").format(
            name_of(self._relation),
            self._equal(source, list(self._numbers), "{} IS NOT DISTINCT FROM {}"),
        )

    def _equal(self, source: str, numbers: list[int], form: LiteralString) -> sql.Composed:
        comparison = sql.SQL(form)
        return sql.SQL(" AND ").join(
            comparison.format(self._column(number), self._param(source, number))
            for number in numbers
        )

    def _column(self, number: int) -> sql.Identifier:
        return sql.Identifier(self._relation.columns[number].name)

    def _param(self, source: str, number: int) -> sql.Composable:
        self._params.append((source, number))
        return sql.SQL("$") + sql.Literal(len(self._params))


def name_of(relation: _core.Relation) -> sql.Identifier:
    """Name a relation with its schema."""
    return sql.Identifier(relation.schema, relation.name)


class OpenReplay(Protocol):
    """What `open_replay` is."""

    def __call__(self, database: Database) -> Applier:
        """Make an applier on a new connection to `database`."""
        ...


@pytest.fixture
def open_replay() -> Callable[[Database], Applier]:
    """Open appliers; the database closes their connections."""
    return lambda database: Applier(database.connect())
