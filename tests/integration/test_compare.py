"""`pgflo compare` against real servers: what is equal, what is not, and how that is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, LiteralString

import pytest

from pgflo.errors import Exit

if TYPE_CHECKING:
    from tests.fix_postgres import Database

Done = subprocess.CompletedProcess[str]


def compare(source: Database, target: Database, *flags: str, **environment: str) -> Done:
    """Run `pgflo compare` as a user would."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    settings = {"PG_FLO_SOURCE": source.dsn, "PG_FLO_TARGET": target.dsn, **environment}
    return subprocess.run(
        [sys.executable, "-m", "pgflo", "compare", "--config", os.devnull, *flags],
        env={**clean, **settings, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def both(source: Database, target: Database, *statements: LiteralString) -> None:
    """Run statements on both sides."""
    for side in (source, target):
        side.execute(*statements)


def verdict(done: Done) -> dict[str, Any]:
    """Read the JSON of a comparison: each table's reason, None when equal."""
    told = json.loads(done.stdout)
    assert told["equal"] == (done.returncode == 0)
    return {table["table"]: table["reason"] for table in told["tables"]}


def test_equal_tables_are_told_to_be_identical_whatever_the_order_of_rows_and_columns(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE TABLE a (id int PRIMARY KEY, name text, note text)",
        "INSERT INTO a SELECT n, 'n' || n, NULL FROM generate_series(1, 1000) n",
        "CREATE TABLE nothing ()",
        "INSERT INTO nothing SELECT FROM generate_series(1, 3)",
    )
    target.execute(
        "CREATE TABLE a (note text, extra int DEFAULT 5, name text, id int PRIMARY KEY)",
        "INSERT INTO a SELECT NULL, 1, 'n' || n, n FROM generate_series(1000, 1, -1) n",
        "CREATE TABLE nothing (since timestamptz DEFAULT now())",
        "INSERT INTO nothing SELECT FROM generate_series(1, 3)",
    )
    done = compare(source, target)
    assert done.returncode == 0, done.stderr
    assert "source and destination are identical" in done.stdout
    assert "1,000" in done.stdout


CHANGES: list[tuple[LiteralString, str]] = [
    ("UPDATE a SET name = name || ' ' WHERE id = 500", "values differ"),
    ("UPDATE a SET name = NULL WHERE id = 500", "values differ"),
    ("UPDATE a SET name = '' WHERE name IS NULL", "values differ"),
    ("UPDATE a SET score = '-0' WHERE id = 1", "values differ"),
    ("UPDATE a SET score = score + 1e-14 WHERE id = 1", "values differ"),
    ("UPDATE a SET at = at + interval '1 microsecond' WHERE id = 3", "values differ"),
    ("DELETE FROM a WHERE id = 500", "number of rows differs"),
    ("INSERT INTO a VALUES (1001)", "number of rows differs"),
    ("WITH d AS (DELETE FROM a WHERE id = 1) INSERT INTO a VALUES (0)", "values differ"),
    (
        "UPDATE a SET name = (ARRAY['n2', 'n1'])[id] WHERE id IN (1, 2)",
        "values differ",
    ),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=[change for change, _ in CHANGES])
def test_one_changed_row_is_found_and_its_table_named(
    change: LiteralString, reason: str, source: Database, target: Database
) -> None:
    both(
        source,
        target,
        "CREATE TABLE a (id int PRIMARY KEY, name text, score float8, at timestamptz)",
        "INSERT INTO a SELECT n, 'n' || n, 0.1, '2026-01-01 UTC' FROM generate_series(1, 1000) n",
        "UPDATE a SET name = NULL WHERE id % 7 = 0",
        "UPDATE a SET score = 0 WHERE id = 1",
        "CREATE TABLE same AS SELECT * FROM a",
    )
    target.execute(change)
    done = compare(source, target, "--json")
    assert done.returncode == Exit.DIFFERS
    assert verdict(done) == {"public.a": reason, "public.same": None}
    assert "1 of 2 tables differ" in done.stderr
    assert "public.a" in done.stderr
    assert "compare.differs" in done.stderr


def test_a_duplicated_row_is_a_difference_even_without_a_key(
    source: Database, target: Database
) -> None:
    both(source, target, "CREATE TABLE a (x int)", "INSERT INTO a VALUES (1), (1), (2)")
    assert compare(source, target).returncode == 0
    target.execute("DELETE FROM a", "INSERT INTO a VALUES (1), (2), (2)")
    assert compare(source, target).returncode == Exit.DIFFERS


def test_missing_tables_and_columns_are_differences_and_named(
    source: Database, target: Database
) -> None:
    both(source, target, "CREATE TABLE here (x int)")
    source.execute(
        'CREATE TABLE "Not There" (x int)',
        'INSERT INTO "Not There" VALUES (1)',
        "CREATE TABLE wide (x int, y int)",
    )
    target.execute("CREATE TABLE wide (x int)")
    done = compare(source, target, "--json")
    assert verdict(done) == {
        "public.here": None,
        'public."Not There"': "missing at the destination",
        "public.wide": "the destination lacks y",
    }


EXTREMES: list[LiteralString] = [
    "SELECT 'NaN'::numeric UNION SELECT 1e1000::numeric UNION SELECT 1.10::numeric",
    "SELECT 'Infinity'::float8 UNION SELECT '-0'::float8 UNION SELECT 4.9e-324::float8",
    "SELECT 'infinity'::timestamptz UNION SELECT '4714-11-24 00:00:00+00 BC'::timestamptz",
    "SELECT '1 year -1 mon +3 days -04:05:06.789'::interval",
    "SELECT '\\x00ff'::bytea UNION SELECT ''::bytea",
    "SELECT ARRAY['a', NULL, 'NULL', '', E'q\"\\\\'] UNION SELECT NULL UNION SELECT '{}'",
    'SELECT \'{"a": 1.0, "b": [null]}\'::jsonb',
    "SELECT ROW(1, 'a,\"b\"', NULL)::text",
    "SELECT '$1,234.50'::money",
    "SELECT repeat(chr(128512), 100000)",
    "SELECT 'pg_class'::regclass",
    "SELECT 'empty'::int4range UNION SELECT '[1,)'::int4range",
    "SELECT E'line\\nbreak\\ttab\\u00a0'",
]


@pytest.mark.parametrize("query", EXTREMES)
def test_extreme_values_are_equal_to_themselves_under_any_session_default(
    query: LiteralString, source: Database, target: Database
) -> None:
    both(source, target, f"CREATE TABLE a AS {query}")
    name = target.name
    for setting in (
        "datestyle = 'German, DMY'",
        "intervalstyle = 'sql_standard'",
        "extra_float_digits = 0",
        "bytea_output = 'escape'",
        "timezone = 'Asia/Tokyo'",
        "search_path = 'pg_catalog'",
        "client_encoding = 'SQL_ASCII'",
    ):
        target.execute(f'ALTER DATABASE "{name}" SET {setting}')
    done = compare(source, target)
    assert done.returncode == 0, done.stdout + done.stderr


def test_databases_of_different_encodings_are_compared_by_their_text(
    source: Database, target: Database
) -> None:
    source.execute("CREATE TABLE a (x text)", "INSERT INTO a VALUES ('grün'), ('plain')")
    latin = f"{target.name}_latin1"
    target.execute(f"CREATE DATABASE \"{latin}\" ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    from tests.fix_postgres import Database, drop_database

    other = Database(target.server, latin)
    try:
        other.execute("CREATE TABLE a (x text)", "INSERT INTO a VALUES ('grün'), ('plain')")
        assert compare(source, other).returncode == 0
        other.execute("UPDATE a SET x = 'gruen' WHERE x <> 'plain'")
        assert compare(source, other).returncode == Exit.DIFFERS
    finally:
        other.close()
        drop_database(target.server, latin)


PARTITIONED: list[LiteralString] = [
    "CREATE TABLE p (id int, at int) PARTITION BY RANGE (at)",
    "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id)",
    "CREATE TABLE p2a PARTITION OF p2 DEFAULT",
    "INSERT INTO p SELECT n, n % 20 FROM generate_series(1, 100) n",
]


def test_a_partitioned_table_is_compared_as_a_whole_with_any_partitions(
    source: Database, target: Database
) -> None:
    source.execute(*PARTITIONED)
    target.execute("CREATE TABLE p (at int, id int)")
    target.execute("INSERT INTO p SELECT n % 20, n FROM generate_series(1, 100) n")
    assert verdict(compare(source, target, "--json")) == {"public.p": None}
    target.execute("UPDATE p SET at = 19 WHERE id = 5")
    assert verdict(compare(source, target, "--json")) == {"public.p": "values differ"}


def test_leaves_are_compared_with_leaves_where_only_those_exist(
    source: Database, target: Database
) -> None:
    source.execute(*PARTITIONED)
    target.execute(
        "CREATE TABLE p1 (id int, at int)",
        "CREATE TABLE p2a (id int, at int)",
        "INSERT INTO p1 SELECT n, n % 20 FROM generate_series(1, 100) n WHERE n % 20 < 10",
        "INSERT INTO p2a SELECT n, n % 20 FROM generate_series(1, 100) n WHERE n % 20 >= 10",
    )
    assert verdict(compare(source, target, "--json")) == {"public.p1": None, "public.p2a": None}


def test_leaves_of_their_own_are_compared_through_the_root_they_were_written_to(
    source: Database, target: Database
) -> None:
    source.execute(*PARTITIONED)
    target.execute("CREATE TABLE p (id int, at int)")
    target.execute(
        "INSERT INTO p SELECT n, n % 20 FROM generate_series(1, 100) n WHERE n % 20 < 10"
    )
    assert verdict(compare(source, target, "--tables", "p1", "--json")) == {"public.p": None}
    target.execute("DELETE FROM p WHERE id = 1")
    assert compare(source, target, "--tables", "p1").returncode == Exit.DIFFERS


def test_generated_columns_and_children_by_inheritance_do_not_count(
    source: Database, target: Database
) -> None:
    source.execute(
        "CREATE TABLE a (x int, y int GENERATED ALWAYS AS (x * 2) STORED)",
        "INSERT INTO a VALUES (1)",
        "CREATE TABLE child () INHERITS (a)",
        "INSERT INTO child VALUES (5)",
    )
    target.execute(
        "CREATE TABLE a (x int, y int GENERATED ALWAYS AS (x * 3) STORED)",
        "INSERT INTO a VALUES (1)",
        "CREATE TABLE child (x int)",
        "INSERT INTO child VALUES (5)",
    )
    assert verdict(compare(source, target, "--json")) == {"public.a": None, "public.child": None}


def test_tables_are_chosen_as_the_flags_say(source: Database, target: Database) -> None:
    both(
        source,
        target,
        "CREATE SCHEMA other",
        "CREATE TABLE other.a (x int)",
        "CREATE TABLE a (x int)",
        'CREATE TABLE "B.c" (x int)',
    )
    chosen = verdict(compare(source, target, "--tables", 'other.*,"B.c"', "--json"))
    assert set(chosen) == {"other.a", 'public."B.c"'}
    assert set(verdict(compare(source, target, "--exclude-tables", "a", "--json"))) == {
        'public."B.c"'
    }
    assert set(verdict(compare(source, target, "--schema", "other", "--json"))) == {"other.a"}
    missing = compare(source, target, "--tables", "nope")
    assert "nope" in missing.stderr
    assert missing.returncode not in (0, Exit.DIFFERS)


def test_servers_that_cannot_be_reached_are_told_apart(source: Database, target: Database) -> None:
    nowhere = "postgresql://u:canary@127.0.0.1:1/x"
    done = compare(source, target, PG_FLO_SOURCE=nowhere)
    assert done.returncode == Exit.SOURCE
    assert "source.unreachable" in done.stderr
    assert "canary" not in done.stderr
    done = compare(source, target, PG_FLO_TARGET=nowhere)
    assert done.returncode == Exit.SINK
    assert "sink.unreachable" in done.stderr
    assert "canary" not in done.stderr


def test_a_group_that_does_not_catch_up_is_an_error_after_the_timeout(
    source: Database, target: Database
) -> None:
    both(source, target, "CREATE TABLE a (x int)")
    group = "lagging"
    assert compare(source, target, "--group", group).returncode == Exit.USAGE  # no publication
    source.execute(f"CREATE PUBLICATION pgflo_{group} FOR TABLE a")
    done = compare(source, target, "--group", group, "--timeout", "200ms")
    assert done.returncode == Exit.DIFFERS
    assert "compare.behind" in done.stderr
    assert "has no progress row" in done.stderr
    target.execute(
        "CREATE SCHEMA pgflo",
        "CREATE TABLE pgflo.progress (group_name text, sink text, end_lsn pg_lsn)",
        "INSERT INTO pgflo.progress VALUES ('lagging', 's', '0/1'), ('other', 's', 'F/0')",
    )
    done = compare(source, target, "--group", group, "--timeout", "200ms")
    assert "is at 0/1" in done.stderr
    target.execute("UPDATE pgflo.progress SET end_lsn = 'FFFFFF/0'")
    done = compare(source, target, "--group", group, "--json")
    assert verdict(done) == {"public.a": None}
    assert json.loads(done.stdout)["lsn"] is not None
