"""Every built-in type and types made of them arrive as they are, however they travel.

The values are made by the source's server and judged by the destination's. They come along all four
ways: COPY as text, COPY in binary, changes as net effects, changes one by one.

    rows  1…      copied            2001…  copied, then deleted
          1001…   copied as NULL, then updated
          3001…   inserted and updated by one large transaction: net effects
          9001…   inserted by many small ones: replay

`VALUES` is compared with pg_type: a new built-in type is noticed as missing.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from tests.property.own_types import CREATE_OWN_TYPES, OWN_TYPES, OWN_VALUES
from tests.property.type_values import BOUNDED, ODD_TYPES, UNKNOWN_TYPES, VALUES

from pgflo._core import has_binary_form

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.fix_pipeline import Pipeline
    from tests.fix_postgres import Database

pytestmark = pytest.mark.timeout(300)

ALL_BYTES = "\\x" + bytes(range(256)).hex()
DIGITS = "1234567890" * 100

LONG_VALUES = {
    "numeric": (DIGITS, f"-{DIGITS[:500]}.{DIGITS[500:]}", "1.500", "0.00", "-Infinity", "1e-400"),
    "bytea": (ALL_BYTES, ALL_BYTES + "00" * 10_000),
    "text": ("ü" * 10_000, "\\N", "\\.", "a\tb\nc\rd\\e"),
    "varbit": ("10" * 5_000,),
    "tsvector": ("",),
}
"""Values that do not fit into an index."""

WITHOUT_EQUALITY = {
    *("json", "xml", "point", "polygon", "jsonpath", "txid_snapshot", "pg_snapshot", "refcursor"),
}
"""Types that only their text can compare."""

ROUNDS = 12
"""Copies of each row in the large transaction: net effects begin at 300 changes."""

Columns = dict[str, tuple[str, tuple[str | None, ...]]]
"""Name → type, values as texts that the server reads."""


def scalar_columns() -> Columns:
    """Give a column for every type that has values of its own."""
    return {name: (name, values + LONG_VALUES.get(name, ())) for name, values in VALUES.items()}


def array_columns() -> Columns:
    """Give a column for the array of every type; the values are made by the server."""
    return {f"{name}[]": (f"{name}[]", BOUNDED.get(name, ())) for name in VALUES}


def own_columns() -> Columns:
    """Give a column for every type that is made of others."""
    return {name: (made, OWN_VALUES[name]) for name, made in OWN_TYPES.items()}


class Sides:
    """Source and destination with the same tables."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.source, self.target = pipeline.source, pipeline.target
        self.tables: dict[str, list[str]] = {}
        """Tables with an id → their other columns."""
        self.keyed: list[str] = []
        """Tables whose key is of the type that they are named by."""

    def create(self) -> None:
        """Make tables and the rows that are there before anything starts."""
        self.source.execute(CREATE_OWN_TYPES)
        plain: Columns = {}
        others: Columns = {}
        oids = dict(
            self.source.rows(
                "SELECT name, name::regtype::oid::int8 FROM unnest(%s::text[]) name", [[*VALUES]]
            )
        )
        for name, column in scalar_columns().items():
            (plain if has_binary_form([oids[name]]) else others)[name] = column
        # Else nothing would travel in binary.
        assert len(plain) > 10
        self._create_table("plain", plain)
        self._create_table("others", others)
        self._create_table("own", own_columns())
        self._create_arrays()
        for name in VALUES:
            self._create_keyed(name)
        for name, columns in self.tables.items():
            rows = self.source.value(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))
            )
            self._repeat(name, columns, 2000)
            self.source.execute(
                sql.SQL("INSERT INTO {} (id) SELECT generate_series(1001, {})").format(
                    sql.Identifier(name), sql.Literal(1000 + rows)
                )
            )
        self.pipeline.copy_schema()

    def change_at_once(self) -> None:
        """Insert, update and delete in one transaction."""
        self.source.execute("BEGIN")
        for name, columns in self.tables.items():
            for number in range(ROUNDS):
                self._repeat(name, columns, 3000 + 100 * number)
            table = sql.Identifier(name)
            self.source.execute(
                sql.SQL(
                    "UPDATE {} new SET ({}) = (SELECT {} FROM {} WHERE id = new.id - 1000)"
                    " WHERE id BETWEEN 1001 AND 2000"
                ).format(table, _names(columns), _names(columns), table),
                sql.SQL("DELETE FROM {} WHERE id BETWEEN 2001 AND 3000").format(table),
            )
        self._change_keyed()
        self.source.execute("COMMIT")

    def change_one_by_one(self) -> None:
        """Insert and update, a transaction for each row."""
        for name, columns in self.tables.items():
            table = sql.Identifier(name)
            last = self.source.value(
                sql.SQL("SELECT max(id) FROM {} WHERE id <= 1000").format(table)
            )
            for number in range(1, last + 1):
                self._repeat(name, columns, 9000, only=number)
                # Each row gets what the next one has.
                self.source.execute(
                    sql.SQL(
                        "UPDATE {} SET ({}) = (SELECT {} FROM {} WHERE id = {}) WHERE id = {}"
                    ).format(
                        *(table, _names(columns), _names(columns), table),
                        *(sql.Literal(number % last + 1), sql.Literal(1000 + number)),
                    )
                )
        self._change_keyed()

    def assert_equal(self) -> None:
        """Compare by text and, where the type has an equality, by that."""
        for name in [*self.tables, *self.keyed]:
            rows = sql.SQL('SELECT t::text FROM {} t ORDER BY t::text COLLATE "C"').format(
                sql.Identifier(name)
            )
            assert self.target.rows(rows) == self.source.rows(rows), name
        unequal, without = {}, set()
        for name, columns in self.tables.items():
            self._bring_expected(name)
            for column in columns:
                if (count := self._count_distinct(name, column)) is None:
                    without.add(column)
                elif count:
                    unequal[f"{name}.{column}"] = count
        assert not unequal
        # Arrays and own types have one if their elements have one that is a default.
        assert without & VALUES.keys() == WITHOUT_EQUALITY

    def _bring_expected(self, name: str) -> None:
        """Load the source's rows beside the destination's, by COPY alone."""
        table, expected = sql.Identifier(name), sql.Identifier("expected", name)
        self.target.execute(
            "CREATE SCHEMA IF NOT EXISTS expected",
            sql.SQL("DROP TABLE IF EXISTS {}").format(expected),
            sql.SQL("CREATE TABLE {} (LIKE {})").format(expected, table),
        )
        with (
            psycopg.connect(self.source.dsn) as source,
            psycopg.connect(self.target.dsn) as target,
            source.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(table)) as rows,
            target.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(expected)) as copy,
        ):
            for row in rows:
                copy.write(row)

    def _count_distinct(self, table: str, column: str) -> int | None:
        """Count the rows whose values differ; None when the type has no equality."""
        query = sql.SQL(
            "SELECT count(*) FROM {} t FULL JOIN {} e USING (id)"
            " WHERE NOT t.{} IS NOT DISTINCT FROM e.{}"
        ).format(
            *(sql.Identifier(table), sql.Identifier("expected", table)),
            *(sql.Identifier(column), sql.Identifier(column)),
        )
        try:
            return int(self.target.value(query))
        except psycopg.errors.UndefinedFunction:
            return None

    def _create_table(self, name: str, columns: Columns) -> None:
        self.source.execute(
            sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, {})").format(
                sql.Identifier(name),
                sql.SQL(", ").join(
                    sql.SQL("{} {}").format(sql.Identifier(column), _type(made))
                    for column, (made, _) in columns.items()
                ),
            )
        )
        self.tables[name] = list(columns)
        rows = zip_longest(*(values for _, values in columns.values()))
        for number, row in enumerate(rows, 1):
            self._insert(name, number, columns, row)

    def _insert(
        self, table: str, number: int, columns: Mapping[str, object], row: Iterable[str | None]
    ) -> None:
        self.source.execute(
            sql.SQL("INSERT INTO {} (id, {}) VALUES ({}, {})").format(
                *(sql.Identifier(table), _names(columns), sql.Literal(number)),
                sql.SQL(", ").join(map(sql.Literal, row)),
            )
        )

    def _create_arrays(self) -> None:
        """Add arrays that the server makes of the types' values: flat, deep, and not from 1 on."""
        self._create_table("lists", array_columns())
        shapes = (
            "ARRAY[{values}, NULL]::{type}[]",
            "ARRAY[]::{type}[]",
            "array_fill({first}::{type}, ARRAY[2, 1, 2], ARRAY[-1, 0, 7])",
            "ARRAY[ARRAY[{first}::{type}, NULL], ARRAY[NULL, {last}::{type}]]",
        )
        for number, shape in enumerate(shapes, 1 + max(map(len, BOUNDED.values()))):
            made = [
                sql.SQL(shape).format(
                    values=sql.SQL(", ").join(map(sql.Literal, values)),
                    first=sql.Literal(values[0]),
                    last=sql.Literal(values[-1]),
                    type=_type(name),
                )
                for name, (_, values) in scalar_columns().items()
            ]
            self.source.execute(
                sql.SQL("INSERT INTO lists VALUES ({}, {})").format(
                    sql.Literal(number), sql.SQL(", ").join(made)
                )
            )

    def _create_keyed(self, type_name: str) -> None:
        """Make a table whose key is of that type, if the type can be a key."""
        name = f"key {type_name}"
        try:
            self.source.execute(
                sql.SQL("CREATE TABLE {} (k {} PRIMARY KEY, n int)").format(
                    sql.Identifier(name), _type(type_name)
                )
            )
        except psycopg.errors.UndefinedObject:
            return
        self.keyed.append(name)
        for number, value in enumerate(VALUES[type_name]):
            self.source.execute(
                sql.SQL("INSERT INTO {} VALUES ({}, {}) ON CONFLICT DO NOTHING").format(
                    sql.Identifier(name), sql.Literal(value), sql.Literal(number)
                )
            )

    def _change_keyed(self) -> None:
        """Update every row, delete every other one and insert half of those again."""
        for name in self.keyed:
            table = sql.Identifier(name)
            self.source.execute(
                sql.SQL("UPDATE {} SET n = n + 1000").format(table),
                sql.SQL(
                    "WITH gone AS (DELETE FROM {} WHERE n % 2 = 0 RETURNING *)"
                    " SELECT count(*) FROM gone"
                ).format(table),
            )
            for number, value in enumerate(VALUES[name.removeprefix("key ")]):
                if number % 4 == 0:
                    self.source.execute(
                        sql.SQL("INSERT INTO {} VALUES ({}, {}) ON CONFLICT DO NOTHING").format(
                            table, sql.Literal(value), sql.Literal(number)
                        )
                    )

    def _repeat(
        self, table: str, columns: list[str], further: int, *, only: int | None = None
    ) -> None:
        """Insert the first rows again, under other ids."""
        self.source.execute(
            sql.SQL("INSERT INTO {} (id, {}) SELECT id + {}, {} FROM {} WHERE {}").format(
                *(sql.Identifier(table), _names(columns), sql.Literal(further)),
                *(_names(columns), sql.Identifier(table)),
                sql.SQL("id <= 1000")
                if only is None
                else sql.SQL("id = {}").format(sql.Literal(only)),
            )
        )


def _names(columns: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _type(name: str) -> sql.SQL:
    return sql.SQL(name)


def test_every_type_of_the_server_is_in_the_table(source: Database) -> None:
    assert source.rows(UNKNOWN_TYPES, [[*ODD_TYPES, *(name.strip('"') for name in VALUES)]]) == []


@pytest.mark.parametrize(("form", "shards"), [("text", "1"), ("auto", "2")])
def test_every_value_of_every_type_is_the_same_at_the_destination(
    pipeline: Pipeline, form: str, shards: str
) -> None:
    sides = Sides(pipeline)
    sides.create()
    pipeline.replicate("--copy-format", form, "--exclude-tables", "place")
    worker = pipeline.worker("--shards", shards)
    pipeline.wait_caught_up()
    sides.assert_equal()
    sides.change_at_once()
    pipeline.wait_caught_up()
    sides.assert_equal()
    sides.change_one_by_one()
    pipeline.wait_caught_up()
    sides.assert_equal()
    # Nothing was refused on the way and brought by a slower one.
    assert '"level":"warning"' not in worker.log.read_text()
