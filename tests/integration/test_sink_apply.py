"""The PostgreSQL sink applies real changes of every shape, in order, and makes both sides equal."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from tests.fix_changes import assert_equal, bodies, on_both, table_rows

from pgflo import _core, errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from tests.fix_changes import Changes, Sink
    from tests.fix_postgres import Database


def test_inserts_updates_and_deletes_are_applied_in_order(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    changes.source.execute(
        "INSERT INTO t SELECT g, 'a' || g FROM generate_series(1, 100) g",
        "UPDATE t SET v = v || '!' WHERE id % 3 = 0",
        "DELETE FROM t WHERE id % 5 = 0",
        "INSERT INTO t VALUES (5, 'again'), (200, NULL)",
        "UPDATE t SET v = NULL WHERE id = 5",
    )
    envelopes = changes.envelopes()
    applied = sink.apply(envelopes)
    assert_equal(changes, sink, "t")
    assert applied.changes == 100 + 33 + 20 + 2 + 1
    assert applied.careful_steps == 0
    assert sink.position() == changes.position


def test_an_unchanged_toast_value_is_left_as_it_is(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text);"
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL;"
        "INSERT INTO t VALUES (1, 1, repeat('x', 100000)), (2, 1, NULL)",
    )
    changes.source.execute("UPDATE t SET n = n + 1")
    assert sink.apply(changes.envelopes()).careful_steps == 0
    assert_equal(changes, sink, "t")


def test_a_changed_key_moves_the_row_and_keeps_its_toast_value(
    changes: Changes, sink: Sink
) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (id int PRIMARY KEY, big text);"
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL;"
        "INSERT INTO t VALUES (1, repeat('y', 100000))",
    )
    changes.source.execute("UPDATE t SET id = 7", "UPDATE t SET id = 8, big = 'small'")
    sink.apply(changes.envelopes())
    assert_equal(changes, sink, "t")


def test_rows_swap_their_keys_within_one_transaction(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    )
    changes.source.execute(
        "UPDATE t SET id = 3 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2;"
        "UPDATE t SET id = 2 WHERE id = 3"
    )
    sink.apply(changes.envelopes())
    assert_equal(changes, sink, "t")


def test_duplicate_rows_without_a_key_are_changed_one_by_one(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (a int, b text, c numeric(10, 2), d varchar(5), e char(4), f bit(3));"
        "ALTER TABLE t REPLICA IDENTITY FULL;"
        "INSERT INTO t SELECT 1, NULL, 1.50, 'x', 'y', B'101' FROM generate_series(1, 3);"
        "INSERT INTO t VALUES (2, 'b', NULL, NULL, NULL, NULL)",
    )
    changes.source.execute(
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE a = 1)",
        "UPDATE t SET b = 'new' WHERE ctid = (SELECT max(ctid) FROM t WHERE a = 1)",
        "UPDATE t SET a = 3 WHERE a = 2",
        "INSERT INTO t SELECT * FROM t",
    )
    assert sink.apply(changes.envelopes()).careful_steps == 0
    assert_equal(changes, sink, "t")


def test_full_identity_uses_the_destinations_primary_key(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (id int PRIMARY KEY, v text, big text);"
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL; ALTER TABLE t REPLICA IDENTITY FULL;"
        "INSERT INTO t SELECT g, 'a', repeat('z', 9000) FROM generate_series(1, 5) g",
    )
    sink.target.execute("UPDATE t SET v = 'differs' WHERE id = 3")
    changes.source.execute("UPDATE t SET v = 'b'", "UPDATE t SET id = id + 10 WHERE id > 3")
    changes.source.execute("DELETE FROM t WHERE id = 1")
    assert sink.apply(changes.envelopes()).careful_steps == 0
    assert_equal(changes, sink, "t")


def test_generated_and_identity_columns_keep_their_own_rules(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, big text,"
        " w int GENERATED ALWAYS AS (length(v)) STORED);"
        "ALTER TABLE always ALTER big SET STORAGE EXTERNAL;"
        "CREATE TABLE beside (k int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text);"
        "CREATE TABLE full_always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);"
        "ALTER TABLE full_always REPLICA IDENTITY FULL",
    )
    changes.source.execute(
        "INSERT INTO always (v, big) SELECT 'x', repeat('q', 9000) FROM generate_series(1, 4)",
        "UPDATE always SET v = 'longer' WHERE id = 2",
        "UPDATE always SET id = DEFAULT WHERE id = 3",
        "DELETE FROM always WHERE id = 4",
        "INSERT INTO beside (k, v) VALUES (1, 'a'), (2, 'b')",
        "UPDATE beside SET n = DEFAULT WHERE k = 1",
        "UPDATE beside SET v = 'c' WHERE k = 2",
        "INSERT INTO full_always (v) VALUES ('a'), ('b')",
        "UPDATE full_always SET v = 'c' WHERE id = 1",
        "UPDATE full_always SET id = DEFAULT WHERE id = 2",
    )
    assert sink.apply(changes.envelopes()).careful_steps == 0
    assert_equal(changes, sink, "always", "beside", "full_always")


def test_quoted_names_arrive(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        'CREATE SCHEMA "Odd.Schema";'
        'CREATE TABLE "Odd.Schema"."Ta""ble; --"'
        ' ("Key ""x" int PRIMARY KEY, "select" text, "%s" int)',
    )
    changes.source.execute(
        'INSERT INTO "Odd.Schema"."Ta""ble; --" VALUES (1, \'a\', 1), (2, \'b\', 2)',
        'UPDATE "Odd.Schema"."Ta""ble; --" SET "select" = \'c\', "%s" = 5 WHERE "Key ""x" = 1',
        'DELETE FROM "Odd.Schema"."Ta""ble; --" WHERE "Key ""x" = 2',
    )
    sink.apply(changes.envelopes())
    rows = [table_rows(side, 'Ta"ble; --', "Odd.Schema") for side in (changes.source, sink.target)]
    assert rows[0] == rows[1] == [("(1,c,5)",)]


def test_a_missing_partition_is_written_through_its_root(changes: Changes, sink: Sink) -> None:
    root = "CREATE TABLE m (id int, region text, v int, PRIMARY KEY (id, region))"
    changes.source.execute(
        f"{root} PARTITION BY LIST (region)",
        "CREATE TABLE m_eu PARTITION OF m FOR VALUES IN ('eu')",
        "CREATE TABLE m_us PARTITION OF m FOR VALUES IN ('us')",
    )
    sink.target.execute(root)
    changes.frames()
    for leaf in ("m_eu", "m_us"):
        oid = changes.source.value("SELECT %s::regclass::oid::bigint", [leaf])
        sink.roots[oid] = ("public", "m")
    changes.source.execute(
        "INSERT INTO m SELECT g, CASE WHEN g % 2 = 0 THEN 'eu' ELSE 'us' END, g"
        " FROM generate_series(1, 10) g",
        "UPDATE m SET v = v + 1 WHERE id < 5",
        "UPDATE m SET region = 'us' WHERE id = 2",
        "DELETE FROM m WHERE id = 9",
    )
    sink.apply(changes.envelopes())
    assert_equal(changes, sink, "m")
    # A TRUNCATE of all partitions is one of the root; of some, it cannot be expressed.
    changes.source.execute("TRUNCATE m", "INSERT INTO m VALUES (1, 'eu', 1), (2, 'us', 2)")
    sink.apply(changes.envelopes())
    assert_equal(changes, sink, "m")
    changes.source.execute("TRUNCATE m_eu")
    with pytest.raises(PgfloError, match="m_eu") as refused:
        sink.apply(changes.envelopes())
    assert refused.value.kind is errors.SINK_REFUSED


def test_keys_are_compared_as_the_destinations_index_does(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE EXTENSION citext; CREATE TABLE t (k citext PRIMARY KEY, n int);"
        "CREATE DOMAIN code AS varchar(8); CREATE TYPE mood AS ENUM ('ok', 'sad');"
        "CREATE TABLE u (k code, m mood, a int[], n int, PRIMARY KEY (k, m, a))",
    )
    changes.source.execute(
        "INSERT INTO t VALUES ('Abc', 1), ('def', 2)",
        "UPDATE t SET n = 5 WHERE k = 'abc'",
        "DELETE FROM t WHERE k = 'DEF'",
        "INSERT INTO u VALUES ('x', 'ok', '{1,2}', 1), ('y', 'sad', '{}', 2)",
        "UPDATE u SET n = 7, m = 'sad' WHERE k = 'x'",
        "DELETE FROM u WHERE k = 'y'",
    )
    assert sink.apply(changes.envelopes()).careful_steps == 0
    assert_equal(changes, sink, "t", "u")


VALUES = {
    "numeric": "NaN",
    "numeric(10, 4)": "12345.6789",
    "float8": "-0",
    "float4": "Infinity",
    "date": "infinity",
    "timestamptz": "2024-02-29 23:59:59.999999+05:30",
    "interval": "-1 year 2 mons -3 days 04:05:06.789",
    "bytea": "\\x00ff27",
    "jsonb": '{"a": [1.10, null]}',
    "json": '{ "a" :1, "a":2}',
    "text[]": """{"a,\\"b",NULL,"NULL",""}""",
    "int2[][]": "{{1,2},{3,NULL}}",
    "int4range": "[1,5)",
    "datemultirange": "{[2020-01-01,2020-02-01)}",
    "inet": "::1/64",
    "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "timetz": "12:00+02",
    "varbit": "10101",
    "money": "-1234.50",
    "pair": '(1,"x,""(y)")',
    "mood[]": '{"so so",fine}',
    "positive": "1.25",
    "hstore": "a=>1, b=>NULL",
    "tsvector": "fat:1 cat:2A",
    "point": "(1.5,-2)",
    "char(5)": "ab",
    '"char"': "c",
    "xml": "<a>&amp;</a>",
    "pg_lsn": "16/B374D848",
    "macaddr": "08:00:2b:01:02:03",
    "bool": "true",
    "name": "n",
    "oid": "4294967295",
}


def test_values_of_every_kind_mean_the_same_on_both_sides(changes: Changes, sink: Sink) -> None:
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(f"c{number}"), sql.SQL(kind))
        for number, kind in enumerate(VALUES)
    )
    on_both(
        changes,
        sink,
        "CREATE TYPE pair AS (a int, b text); CREATE TYPE mood AS ENUM ('so so', 'fine');"
        "CREATE DOMAIN positive AS numeric(8, 3) CHECK (VALUE > 0); CREATE EXTENSION hstore",
    )
    on_both(changes, sink, sql.SQL("CREATE TABLE t (id int PRIMARY KEY, {})").format(columns))
    values = sql.SQL(", ").join(map(sql.Literal, VALUES.values()))
    changes.source.execute(
        sql.SQL("INSERT INTO t VALUES (1, {})").format(values),
        "INSERT INTO t (id) VALUES (2)",
        "UPDATE t SET c0 = 1e-30, c2 = 5e-324, c3 = 1.17549435e-38, c6 = '0', c10 = '{}'",
    )
    assert sink.apply(changes.envelopes()).careful_steps == 0
    assert_equal(changes, sink, "t")
    assert sink.target.value("SELECT c0 FROM t WHERE id = 1") == Decimal("1e-30")


def test_inserts_alone_need_no_identity(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE log (n int, v text)")
    changes.source.execute(
        "INSERT INTO log VALUES (1, 'a'), (1, 'a'), (2, NULL)",
        "TRUNCATE log",
        "INSERT INTO log VALUES (3, 'c'), (3, 'c')",
    )
    assert sink.apply(changes.envelopes()).careful_steps == 0
    assert_equal(changes, sink, "log")


def test_a_large_transaction_is_applied_in_steps_and_seen_at_once(
    changes: Changes, sink: Sink, target: Database
) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    changes.source.execute(
        "INSERT INTO t SELECT g, repeat('v', 50) FROM generate_series(1, 3000) g"
    )
    envelopes = changes.envelopes(target_body_bytes=4096, max_body_bytes=8192)
    assert len(envelopes) > 20
    transactions = sink.open()
    for body in bodies(envelopes):
        transactions.step([body])
        assert target.value("SELECT count(*) FROM t") == 0
    last = envelopes[-1]
    applied = transactions.commit((last.commit_lsn, last.ordinal), last.end_lsn)
    assert applied.changes == 3000
    assert_equal(changes, sink, "t")


def test_a_row_larger_than_an_envelope_arrives_whole(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    changes.source.execute(
        "INSERT INTO t VALUES (1, 'small'), (2, repeat('j', 20 * 1024 * 1024))",
        "UPDATE t SET id = 3 WHERE id = 2",
    )
    envelopes = changes.envelopes()
    assert max(envelope.parts for envelope in envelopes) > 20
    sink.apply(envelopes)
    assert_equal(changes, sink, "t")


def test_what_is_applied_already_is_skipped_change_by_change(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE log (n int)")
    start = (changes.position, changes.end_lsn)
    changes.source.execute("INSERT INTO log SELECT generate_series(1, 10)")
    frames = changes.frames()
    first = _cut(changes, frames, start)
    sink.apply(first)
    # The same transaction again, in one envelope with a later one.
    changes.source.execute("INSERT INTO log VALUES (11)")
    both_of_them = _cut(changes, frames + changes.frames(), start)
    assert len(both_of_them) == 1
    assert sink.apply(both_of_them).changes == 1
    assert_equal(changes, sink, "log")


def _cut(
    changes: Changes, frames: bytes, start: tuple[tuple[int, int], int]
) -> list[_core.Envelope]:
    assembler = _core.Assembler(changes.incarnation.bytes, *start)
    return [*assembler.feed(frames), *assembler.flush()]
