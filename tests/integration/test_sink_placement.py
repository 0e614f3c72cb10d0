"""Which tables are spread by key: those where nothing but the key can make two rows meet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from pgflo.sinks.postgres.assignment import KeyColumn, Route, from_json
from pgflo.sinks.postgres.placement import Placement, SourceShape

if TYPE_CHECKING:
    from tests.fix_postgres import Database

PARTITIONED = (
    'CREATE TABLE t (id {type} PRIMARY KEY, v text COLLATE "C") PARTITION BY HASH (id);'
    " CREATE TABLE p0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
    " CREATE TABLE p1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
)

BY_KEY = [
    "CREATE TABLE t (id {type} PRIMARY KEY, v text)",
    "CREATE TABLE t (v text, id {type} NOT NULL UNIQUE)",
    "CREATE TABLE t (id {type} PRIMARY KEY, v text); CREATE INDEX ON t (v)",
    PARTITIONED,
]

WHOLE = {
    "no key": "CREATE TABLE t (id int, v text)",
    "a key with NULLs": "CREATE TABLE t (id int UNIQUE, v text)",
    "a key that is enforced late": "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text)",
    "another unique index": "CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)",
    "a partial one": "CREATE TABLE t (id int PRIMARY KEY, v text);"
    " CREATE UNIQUE INDEX ON t (v) WHERE id > 0",
    "one over an expression": "CREATE TABLE t (id int PRIMARY KEY, v text);"
    " CREATE UNIQUE INDEX ON t (lower(v))",
    "an exclusion": "CREATE TABLE t (id int PRIMARY KEY, v text, EXCLUDE USING hash (v WITH =))",
    "other key columns": "CREATE TABLE t (id int, v text PRIMARY KEY)",
    "a domain": "CREATE DOMAIN d AS int; CREATE TABLE t (id d PRIMARY KEY, v text)",
    "a partition with an index of its own": "CREATE TABLE t (id int PRIMARY KEY, v text)"
    " PARTITION BY LIST (id); CREATE TABLE p PARTITION OF t DEFAULT;"
    " CREATE UNIQUE INDEX ON p (v)",
    "a collation under which other texts are equal": "CREATE COLLATION loose"
    " (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
    " CREATE TABLE t (id text COLLATE loose PRIMARY KEY, v text)",
    "a length that may cut": "CREATE TABLE t (id varchar(5) PRIMARY KEY, v text)",
}

TYPES = {
    "int2": 21,
    "int4": 23,
    "int8": 20,
    "oid": 26,
    "uuid": 2950,
    "bool": 16,
    "date": 1082,
    "timestamp": 1114,
    "timestamptz": 1184,
    "bytea": 17,
    "text": 25,
    "varchar": 1043,
}
"""Types by whose text rows are spread."""


def shape(type_oid: int, *, oid: int = 1, name: str = "t") -> SourceShape:
    columns = {
        "id": KeyColumn("id", type_oid, -1),
        "v": KeyColumn("v", 25, -1),
    }
    return SourceShape(oid, "public", name, ("public", "t"), False, ("id",), columns)


def routes(target: Database, *shapes: SourceShape) -> dict[int, Route]:
    with psycopg.connect(target.dsn, autocommit=True) as conn:
        return dict(Placement(4, {}).look(conn, shapes).tables)


@pytest.mark.parametrize("table", BY_KEY)
def test_a_table_with_one_key_is_spread_by_it(target: Database, table: str) -> None:
    target.execute(table.format(type="int"))
    assert [key.name for key in routes(target, shape(23))[1].key] == ["id"]


@pytest.mark.parametrize("type_name", TYPES)
def test_types_whose_equal_values_have_one_text_are_spread(
    target: Database, type_name: str
) -> None:
    target.execute(BY_KEY[0].format(type=type_name))
    assert routes(target, shape(TYPES[type_name]))[1].key


@pytest.mark.parametrize(
    "type_name", ["numeric", "float8", "char(3)", "citext", "jsonb", "interval"]
)
def test_other_types_are_not(target: Database, type_name: str) -> None:
    target.execute("CREATE EXTENSION IF NOT EXISTS citext")
    target.execute(BY_KEY[0].format(type=type_name))
    type_oid = target.value(
        "SELECT atttypid::bigint FROM pg_attribute WHERE attrelid = 't'::regclass"
        " AND attname = 'id'"
    )
    assert not routes(target, shape(type_oid))[1].key


@pytest.mark.parametrize("why", WHOLE)
def test_a_table_goes_whole_if_it_has(target: Database, why: str) -> None:
    target.execute(WHOLE[why])
    source_type = 25 if "text" in WHOLE[why].split(",")[0] or "varchar" in WHOLE[why] else 23
    assert not routes(target, shape(source_type))[1].key


def test_a_key_of_another_type_than_the_source_s_goes_whole_unless_texts_are_alike(
    target: Database,
) -> None:
    target.execute("CREATE TABLE t (id uuid PRIMARY KEY, v text)")
    assert not routes(target, shape(25))[1].key
    target.execute("DROP TABLE t; CREATE TABLE t (id int8 PRIMARY KEY, v text)")
    assert routes(target, shape(23))[1].key


def test_all_that_is_written_through_one_root_goes_one_way(target: Database) -> None:
    target.execute(PARTITIONED.format(type="int"))
    parts = [shape(23, oid=2, name="p0"), shape(23, oid=3, name="elsewhere")]
    assert {route.key for route in routes(target, *parts).values()} == {(KeyColumn("id", 23, -1),)}
    # One of them has an identity of its own: rows of both may meet under the root.
    parts[1] = replace(parts[1], identity=("v",))
    found = routes(target, *parts)
    assert not any(route.key for route in found.values())
    assert len({route.shard for route in found.values()}) == 1


def test_an_assignment_reads_back_as_written(target: Database) -> None:
    target.execute(BY_KEY[0].format(type="int"))
    with psycopg.connect(target.dsn, autocommit=True) as conn:
        assignment = Placement(3, {}).look(conn, [shape(23), shape(23, oid=9, name="nowhere")])
    assert from_json(assignment.to_json()) == assignment
    assert from_json(assignment.to_json()).digest == assignment.digest
