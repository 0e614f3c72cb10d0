"""Random transactions on odd tables give equal rows, whatever an epoch holds of them."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from tests.fix_changes import assert_equal
from tests.fix_property import LONG, SEED

if TYPE_CHECKING:
    from tests.fix_changes import Changes, Sink
    from tests.fix_postgres import Query

HISTORIES = 40 if LONG else 5
EPOCHS = 6

BOTH = (
    "CREATE EXTENSION citext;"
    "CREATE TABLE counted (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, big text);"
    "ALTER TABLE counted ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;"
    "CREATE TABLE late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text, big text);"
    "ALTER TABLE late ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;"
    "CREATE TABLE nocase (id citext PRIMARY KEY, v text);"
    "CREATE TABLE parent (id int PRIMARY KEY, v text);"
    "CREATE TABLE child (parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE"
    " DEFERRABLE INITIALLY DEFERRED, id int, big text, PRIMARY KEY (parent, id));"
    "ALTER TABLE child ALTER big SET STORAGE EXTERNAL"
)
BAG = "CREATE TABLE bag (id numeric(6, 2), v char(4), j json)"
LATE_MOVES = (
    "UPDATE late SET id = 7 - id",
    "UPDATE late SET id = id % 6 + 1",
    (
        "UPDATE late SET id = id - 1 WHERE id > (SELECT min(id) FROM late)"
        " AND NOT EXISTS (SELECT FROM late WHERE id = 1)"
    ),
)
TABLES = ("counted", "late", "nocase", "parent", "child", "bag")


class History:
    """Draws statements; keys are few, so that they meet."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def transaction(self) -> list[Query]:
        """Draw the statements of one transaction."""
        return [self._statement() for _ in range(self._random.randint(1, 6))]

    def _key(self, table: str) -> sql.Composable:
        number = self._random.randint(1, 6)
        if table == "nocase":
            return sql.Literal(self._random.choice("abcdefABCDEF"))
        return sql.SQL("{}::int").format(number)

    def _statement(self) -> Query:
        table = self._random.choice(TABLES)
        name, key, other = sql.Identifier(table), self._key(table), self._key(table)
        value = sql.Literal(self._random.choice(["x", "y", "z", None]))
        kind = self._random.randrange(10)
        if kind < 4:
            return self._insert(table, key, value)
        if kind < 6:
            return sql.SQL("UPDATE {} SET v = {} WHERE id = {}").format(
                name if table != "child" else sql.Identifier("parent"), value, key
            )
        if kind < 8 and table == "counted":
            return sql.SQL("UPDATE counted SET id = DEFAULT WHERE id = {}").format(key)
        if kind in (6, 7) and table == "late":
            return sql.SQL(self._random.choice(LATE_MOVES))
        if kind < 8:
            return sql.SQL("UPDATE {} SET id = {} WHERE id = {}").format(name, other, key)
        if kind == 8 or self._random.random() < 0.9:
            return sql.SQL("DELETE FROM {} WHERE id = {}").format(name, key)
        return sql.SQL("TRUNCATE {} CASCADE").format(name)

    def _insert(self, table: str, key: sql.Composable, value: sql.Composable) -> sql.Composed:
        big = sql.SQL("repeat('b', {})").format(self._random.choice([1, 5000]))
        match table:
            case "counted":
                return sql.SQL("INSERT INTO counted (v, big) VALUES ({}, {})").format(value, big)
            case "child":
                return sql.SQL(
                    "INSERT INTO child SELECT id, {}, {} FROM parent ON CONFLICT DO NOTHING"
                ).format(self._key(table), big)
            case "bag":
                return sql.SQL(
                    "INSERT INTO bag SELECT {}, {}, '{{\"a\" : 1}}' FROM generate_series(1, 2)"
                ).format(key, value)
            case "late" if self._random.random() < 0.7:
                return sql.SQL(
                    "INSERT INTO late SELECT {0}, {1}, {2}"
                    " WHERE NOT EXISTS (SELECT FROM late WHERE id = {0})"
                ).format(key, value, big)
            case "late":
                # For a moment there are two rows of one key.
                return sql.SQL(
                    "WITH old AS (SELECT ctid FROM late WHERE id = {0}), new AS"
                    " (INSERT INTO late VALUES ({0}, {1}, {2}))"
                    " DELETE FROM late WHERE ctid IN (SELECT ctid FROM old)"
                ).format(key, value, big)
            case _:
                return sql.SQL("INSERT INTO {} VALUES ({}, {})").format(
                    sql.Identifier(table), key, value
                )


def run(changes: Changes, statements: list[Query]) -> None:
    """Run one transaction at the source; what it refuses leaves nothing."""
    connection = changes.source.connect()
    try:
        with connection.transaction():
            for statement in statements:
                with suppress(psycopg.IntegrityError), connection.transaction():
                    connection.execute(statement)
    except psycopg.IntegrityError:
        pass  # a deferred constraint
    finally:
        connection.close()


@pytest.mark.parametrize("number", range(HISTORIES))
@pytest.mark.parametrize("role", ["replica", "plain"])
def test_random_histories_of_odd_tables_end_equal(
    changes: Changes, request: pytest.FixtureRequest, role: str, number: int
) -> None:
    sink: Sink = request.getfixturevalue("sink" if role == "replica" else "plain")
    changes.source.execute(f"{BOTH}; {BAG}; ALTER TABLE bag REPLICA IDENTITY FULL")
    sink.target.execute(
        f"{BOTH}; {BAG} PARTITION BY LIST (v);"
        "CREATE TABLE bag_x PARTITION OF bag FOR VALUES IN ('x');"
        "CREATE TABLE bag_rest PARTITION OF bag DEFAULT"
    )
    history = History(SEED * 1000 + number)
    for _ in range(EPOCHS):
        for _ in range(5):
            run(changes, history.transaction())
        if envelopes := changes.envelopes():
            sink.apply(envelopes)
        assert_equal(changes, sink, *TABLES)
