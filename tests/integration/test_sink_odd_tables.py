"""Tables that are unlike others, or unlike their counterpart at the source, get equal rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from tests.fix_changes import assert_equal, on_both, table_rows

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.sinks.postgres import transaction

if TYPE_CHECKING:
    from tests.fix_changes import Changes, Sink
    from tests.fix_pipeline import Pipeline

DEFERRABLE = (
    "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text);ALTER TABLE t REPLICA IDENTITY FULL;"
)


# --- deferrable keys


def test_rows_swap_a_deferrable_key_in_one_statement(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, DEFERRABLE)
    on_both(changes, sink, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    changes.source.execute(
        "UPDATE t SET id = 3 - id WHERE id < 3",
        "UPDATE t SET id = id + 1",
        "UPDATE t SET id = id - 1",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, sink, "t")


def test_a_deferrable_key_changes_hands_within_a_transaction(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, DEFERRABLE)
    on_both(changes, sink, "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    changes.source.execute(
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO t VALUES (1, 'new'), (2, 'newer');"
        "DELETE FROM t WHERE v = 'a'; UPDATE t SET id = 7, v = 'moved' WHERE v = 'b'; COMMIT"
    )
    sink.apply(changes.envelopes())
    assert_equal(changes, sink, "t")


def test_a_deferrable_key_finds_rows_that_differ_from_the_source(
    changes: Changes, sink: Sink
) -> None:
    on_both(changes, sink, DEFERRABLE)
    on_both(changes, sink, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    sink.target.execute("UPDATE t SET v = 'differs'; DELETE FROM t WHERE id = 3")
    changes.source.execute("UPDATE t SET v = v || '!'", "DELETE FROM t WHERE id = 2")
    applied = sink.apply(changes.envelopes())
    assert applied.conflicts == {"update_missing": 1}
    assert_equal(changes, sink, "t")


def test_a_key_may_be_deferrable_at_the_destination_alone(changes: Changes, sink: Sink) -> None:
    changes.source.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    sink.target.execute("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text)")
    sink.target.execute("INSERT INTO t VALUES (1, 'was here')")
    changes.frames()
    changes.source.execute(
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "UPDATE t SET id = 3 WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t VALUES (1, 'again')",
    )
    assert sink.apply(changes.envelopes()).conflicts == {"insert_exists": 1}
    assert_equal(changes, sink, "t")


# --- no key, no equality


@pytest.mark.parametrize("partitions", ["", "PARTITION BY RANGE (n)"])
def test_columns_without_equality_and_no_key(changes: Changes, sink: Sink, partitions: str) -> None:
    table = "CREATE TABLE t (n int, j json, x xml, p point, b box, a json[])"
    changes.source.execute(f"{table}; ALTER TABLE t REPLICA IDENTITY FULL")
    sink.target.execute(f"{table} {partitions}")
    if partitions:
        sink.target.execute(
            "CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (0) TO (2);"
            "CREATE TABLE t_high PARTITION OF t DEFAULT"
        )
    changes.frames()
    changes.source.execute(
        """INSERT INTO t SELECT g / 2, '{"a" : 1}', '<a/>', '(1,2)', '(1,1),(0,0)', '{"[1]"}'
        FROM generate_series(1, 6) g""",
        "INSERT INTO t (n) VALUES (1), (1), (NULL)"
        if not partitions
        else "INSERT INTO t VALUES (1)",
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE n = 1)",
        """UPDATE t SET j = '{"a": 1}', p = '(1,3)' WHERE n = 2""",
        "UPDATE t SET n = 9 WHERE ctid = (SELECT max(ctid) FROM t WHERE n = 2)",
        "DELETE FROM t WHERE j IS NULL AND ctid = (SELECT max(ctid) FROM t WHERE j IS NULL)",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, sink, "t")


def test_rows_without_a_key_are_found_although_the_destination_rounds_and_pads(
    changes: Changes, sink: Sink
) -> None:
    changes.source.execute(
        "CREATE TABLE t (a numeric, b varchar(9), c timestamptz, d interval, e bit(3), f text);"
        "ALTER TABLE t REPLICA IDENTITY FULL"
    )
    sink.target.execute(
        "CREATE TABLE t (a numeric(10, 4), b char(9), c timestamptz(0), d interval second(0),"
        " e bit(3), f varchar(20))"
    )
    changes.frames()
    changes.source.execute(
        "INSERT INTO t SELECT 1.5, 'b', '2024-01-01 00:00:00.6Z', '1.7 s', B'101', 'f'"
        " FROM generate_series(1, 3)",
        "UPDATE t SET f = 'g' WHERE ctid = (SELECT min(ctid) FROM t)",
        "DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t)",
        "DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t)",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert sink.target.rows("SELECT a::text, f FROM t") == [("1.5000", "f")]


def test_json_beside_a_key_is_written_like_anything_else(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (id int PRIMARY KEY, j json, x xml, p point);"
        "CREATE TABLE u (LIKE t INCLUDING ALL); ALTER TABLE u REPLICA IDENTITY FULL",
    )
    changes.source.execute(
        """INSERT INTO t SELECT g, '{"a" : 1}', '<a/>', '(1,2)' FROM generate_series(1, 3) g""",
        "INSERT INTO u SELECT * FROM t",
        "UPDATE t SET j = '[1,  2]', p = NULL WHERE id < 3",
        "UPDATE u SET j = '[1,  2]', p = NULL WHERE id < 3",
        "DELETE FROM t WHERE id = 1",
        "DELETE FROM u WHERE id = 1",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, sink, "t", "u")


# --- keys with an equality of their own


def test_keys_that_are_equal_and_look_different(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE EXTENSION citext;"
        "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2',"
        " deterministic = false);"
        "CREATE TABLE n (k numeric PRIMARY KEY, v text);"
        "CREATE TABLE s (k text COLLATE nocase PRIMARY KEY, v text);"
        "CREATE TABLE b (k char(5) PRIMARY KEY, v text);"
        "CREATE TABLE c (k citext PRIMARY KEY, v text);"
        "CREATE TABLE f (k float8 PRIMARY KEY, v text)",
    )
    changes.source.execute(
        "INSERT INTO n VALUES (1.0, 'a'), (2.50, 'b'), ('NaN', 'c')",
        "UPDATE n SET k = 1.000 WHERE k = 1",
        "UPDATE n SET v = 'd' WHERE k = 1",
        "DELETE FROM n WHERE k = 2.5",
        "INSERT INTO s VALUES ('Straße', 'a'), ('ABC', 'b')",
        "UPDATE s SET k = 'abc' WHERE k = 'aBc'",
        "UPDATE s SET v = 'c' WHERE k = 'ABC'",
        "DELETE FROM s WHERE k = 'STRAßE'",
        "INSERT INTO b VALUES ('x', 'a'), ('y  ', 'b')",
        "UPDATE b SET v = 'c' WHERE k = 'x    '",
        "DELETE FROM b WHERE k = 'y'",
        "INSERT INTO c VALUES ('One', 'a'), ('Two', 'b')",
        "UPDATE c SET k = 'ONE' WHERE k = 'one'",
        "DELETE FROM c WHERE k = 'TWO'",
        "INSERT INTO f VALUES ('-0', 'a'), ('NaN', 'b'), (0.1, 'c')",
        "UPDATE f SET k = 0 WHERE k = 0",
        "UPDATE f SET v = 'd' WHERE k IN (0, 0.1, 'NaN')",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, sink, "n", "s", "b", "c", "f")


def test_an_insert_meets_a_row_whose_key_is_equal_and_looks_different(
    changes: Changes, sink: Sink
) -> None:
    on_both(
        changes,
        sink,
        "CREATE EXTENSION citext; CREATE TABLE n (k numeric PRIMARY KEY, v text);"
        "CREATE TABLE c (k citext PRIMARY KEY, v text)",
    )
    sink.target.execute("INSERT INTO n VALUES (1.00, 'x'); INSERT INTO c VALUES ('ABC', 'x')")
    changes.source.execute("INSERT INTO n VALUES (1, 'a')", "INSERT INTO c VALUES ('abc', 'a')")
    assert sink.apply(changes.envelopes()).conflicts == {"insert_exists": 2}
    assert_equal(changes, sink, "n", "c")


# --- partitions and inheritance


def test_partitions_of_the_same_names_may_have_other_bounds(pipeline: Pipeline) -> None:
    """A row is written where the destination keeps it: by the copy, by changes, by truncates."""
    root = "CREATE TABLE m (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
    hashed = (
        "CREATE TABLE h (id int PRIMARY KEY, v text) PARTITION BY HASH (id);"
        "CREATE TABLE h_0 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE h_1 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
    )
    pipeline.source.execute(
        f"{hashed} {root} CREATE TABLE m_a PARTITION OF m FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE m_b PARTITION OF m FOR VALUES FROM (100) TO (200)",
        "INSERT INTO m SELECT g, 'copied' FROM generate_series(1, 150) g",
        "INSERT INTO h SELECT g, 'copied' FROM generate_series(1, 150) g",
    )
    pipeline.target.execute(
        f"CREATE TABLE moves_the_oids (); {hashed} {root}"
        "CREATE TABLE m_a PARTITION OF m FOR VALUES FROM (0) TO (50);"
        "CREATE TABLE m_b PARTITION OF m FOR VALUES FROM (50) TO (120);"
        "CREATE TABLE m_rest PARTITION OF m DEFAULT;"
    )
    pipeline.replicate()
    pipeline.worker()
    pipeline.wait_caught_up()
    pipeline.assert_identical()
    pipeline.source.execute(
        "INSERT INTO m SELECT g, 'v' || g FROM generate_series(151, 199) g",
        "UPDATE m SET v = 'w' WHERE id % 3 = 0",
        "DELETE FROM m WHERE id % 7 = 0",
        "DELETE FROM m WHERE id IN (60, 100)",
        "UPDATE m SET id = 100, v = 'crosses at the source' WHERE id = 99",
        "UPDATE m SET id = 60, v = 'crosses here' WHERE id = 40",
        "UPDATE h SET v = 'w' WHERE id % 3 = 0",
        "DELETE FROM h WHERE id % 7 = 0",
    )
    pipeline.wait_caught_up()
    pipeline.assert_identical()
    pipeline.source.execute("TRUNCATE m", "INSERT INTO m VALUES (70, 'after'), (170, 'after')")
    pipeline.wait_caught_up()
    pipeline.assert_identical()
    assert "one by one" not in pipeline.commands[1].tail(100_000)


def test_rows_move_between_partitions_that_only_the_destination_has(
    changes: Changes, sink: Sink
) -> None:
    changes.source.execute("CREATE TABLE m (id int, region text, v int, PRIMARY KEY (id, region))")
    sink.target.execute(
        "CREATE TABLE m (id int, region text, v int, PRIMARY KEY (id, region))"
        " PARTITION BY LIST (region); CREATE TABLE m_eu PARTITION OF m FOR VALUES IN ('eu');"
        "CREATE TABLE m_rest PARTITION OF m DEFAULT PARTITION BY HASH (id);"
        "CREATE TABLE m_rest_0 PARTITION OF m_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE m_rest_1 PARTITION OF m_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    )
    changes.frames()
    changes.source.execute(
        "INSERT INTO m SELECT g, CASE WHEN g % 2 = 0 THEN 'eu' ELSE 'us' END, g"
        " FROM generate_series(1, 20) g",
        "UPDATE m SET region = 'us' WHERE id < 5",
        "UPDATE m SET region = 'eu', id = id + 100 WHERE id > 15",
        "DELETE FROM m WHERE id = 10",
        "TRUNCATE m",
        "INSERT INTO m VALUES (1, 'eu', 1), (2, 'asia', 2)",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, sink, "m")


def test_a_parent_and_its_heirs_are_tables_of_their_own(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE parent (id int PRIMARY KEY, v text);"
        "CREATE TABLE heir (extra text, PRIMARY KEY (id)) INHERITS (parent);"
        "CREATE TABLE loose (n int); ALTER TABLE loose REPLICA IDENTITY FULL;"
        "CREATE TABLE looser () INHERITS (loose); ALTER TABLE looser REPLICA IDENTITY FULL",
    )
    changes.source.execute(
        "INSERT INTO parent VALUES (1, 'p'), (2, 'p')",
        "INSERT INTO heir VALUES (1, 'h', 'e'), (2, 'h', 'e')",
        "UPDATE ONLY parent SET v = 'P' WHERE id = 1",
        "UPDATE parent SET v = v || '!' WHERE id = 2",
        "DELETE FROM ONLY parent WHERE id = 1",
        "INSERT INTO loose VALUES (1), (1); INSERT INTO looser VALUES (1), (1)",
        "DELETE FROM ONLY loose WHERE ctid = '(0,1)'",
        "UPDATE loose SET n = 2",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, sink, "parent", "heir", "loose", "looser")
    changes.source.execute("TRUNCATE ONLY parent", "TRUNCATE loose")
    sink.apply(changes.envelopes())
    assert_equal(changes, sink, "parent", "heir", "loose", "looser")
    assert sink.target.value("SELECT count(*) FROM heir") == 2


def test_a_truncate_reaches_partitions_that_others_refer_to(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE m (id int PRIMARY KEY, up int REFERENCES m) PARTITION BY RANGE (id);"
        "CREATE TABLE m_a PARTITION OF m FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE m_b PARTITION OF m FOR VALUES FROM (10) TO (20);"
        "CREATE TABLE child (id int PRIMARY KEY, m int REFERENCES m)",
    )
    sink.target.execute("CREATE TABLE outside (m int REFERENCES m)")
    changes.source.execute(
        "INSERT INTO m VALUES (1, NULL), (2, 1), (11, 2)",
        "INSERT INTO child VALUES (1, 11)",
        "TRUNCATE m, child",
        "INSERT INTO m VALUES (5, NULL)",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, sink, "m", "child")


# --- columns that one side has, or makes


def test_generated_columns_of_either_side_alone(changes: Changes, sink: Sink) -> None:
    changes.source.execute(
        "CREATE TABLE here (id int PRIMARY KEY, n int, w int GENERATED ALWAYS AS (n * 2) STORED);"
        "CREATE TABLE there (id int PRIMARY KEY, n int, w int);"
        "CREATE TABLE keyed (k int PRIMARY KEY, n int);"
        "CREATE TABLE image (n int, w int); ALTER TABLE image REPLICA IDENTITY FULL"
    )
    sink.target.execute(
        "CREATE TABLE here (id int PRIMARY KEY, n int, w int DEFAULT 7);"
        "CREATE TABLE there (id int PRIMARY KEY, n int, w int GENERATED ALWAYS AS (n * 3) STORED);"
        "CREATE TABLE keyed (k int GENERATED ALWAYS AS (n + 1) STORED PRIMARY KEY, n int);"
        "CREATE TABLE image (n int, w int GENERATED ALWAYS AS (n * 3) STORED)"
    )
    changes.frames()
    changes.source.execute(
        "INSERT INTO here (id, n) VALUES (1, 1), (2, 2)",
        "UPDATE here SET n = 5 WHERE id = 1",
        "INSERT INTO there VALUES (1, 1, 50), (2, 2, 60)",
        "UPDATE there SET w = 70 WHERE id = 1",
        "UPDATE there SET n = 3, w = 80 WHERE id = 2",
        "INSERT INTO keyed VALUES (2, 1), (3, 2)",
        "UPDATE keyed SET k = 9, n = 8 WHERE k = 2",
        "DELETE FROM keyed WHERE k = 3",
        "INSERT INTO image VALUES (1, 1), (2, 2)",
        "UPDATE image SET n = 4 WHERE n = 1",
        "DELETE FROM image WHERE n = 2",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    rows = sink.target.rows
    assert rows("SELECT * FROM here ORDER BY id") == [(1, 5, 7), (2, 2, 7)]
    assert rows("SELECT * FROM there ORDER BY id") == [(1, 1, 3), (2, 3, 9)]
    assert rows("SELECT * FROM keyed") == [(9, 8)]
    assert rows("SELECT * FROM image") == [(4, 12)]


def test_columns_in_another_order_and_more_of_them(changes: Changes, sink: Sink) -> None:
    changes.source.execute(
        "CREATE TABLE t (id int PRIMARY KEY, gone int, a text, b text);"
        "ALTER TABLE t DROP COLUMN gone;"
        "CREATE TABLE u (id int, a text); ALTER TABLE u REPLICA IDENTITY FULL"
    )
    sink.target.execute(
        "CREATE TABLE t (b text, loaded_at timestamptz NOT NULL DEFAULT now(), a text,"
        " seen int DEFAULT 0, id int, serial int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (id));"
        "CREATE TABLE u (a text, note text DEFAULT 'ours', id int)"
    )
    changes.frames()
    changes.source.execute(
        "INSERT INTO t VALUES (1, 'a', 'b'), (2, 'a', 'b')",
        "INSERT INTO u VALUES (1, 'a'), (1, 'a')",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    sink.target.execute("UPDATE t SET seen = 5; UPDATE u SET note = 'kept'")
    changes.source.execute(
        "UPDATE t SET a = 'c' WHERE id = 1",
        "UPDATE t SET id = 3 WHERE id = 2",
        "DELETE FROM u WHERE ctid = '(0,1)'",
        "UPDATE u SET a = 'd'",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert sink.target.rows("SELECT id, a, b, seen, serial FROM t ORDER BY id") == [
        (1, "c", "b", 5, 1),
        (3, "a", "b", 5, 2),
    ]
    assert sink.target.rows("SELECT id, a, note FROM u") == [(1, "d", "kept")]


def test_an_identity_column_keeps_its_number_when_its_row_is_replaced(
    changes: Changes, sink: Sink
) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);"
        "ALTER TABLE t REPLICA IDENTITY FULL;"
        "CREATE TABLE lone (id bigint GENERATED ALWAYS AS IDENTITY); "
        "ALTER TABLE lone REPLICA IDENTITY FULL",
    )
    sink.target.execute("INSERT INTO t (v) VALUES ('was here')")
    changes.source.execute(
        "INSERT INTO t (v) VALUES ('a'), ('b'), ('c')",
        "UPDATE t SET id = DEFAULT WHERE id = 2",
        "UPDATE t SET v = 'd' WHERE id = 3",
        "INSERT INTO lone DEFAULT VALUES; INSERT INTO lone DEFAULT VALUES",
        "UPDATE lone SET id = DEFAULT WHERE id = 1",
        "DELETE FROM lone WHERE id = 2",
    )
    assert sink.apply(changes.envelopes()).conflicts == {"insert_exists": 1}
    assert_equal(changes, sink, "t", "lone")


def test_a_unique_index_that_the_source_lacks(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, mail text, n int)")
    sink.target.execute(
        "CREATE UNIQUE INDEX one_mail ON t (lower(mail)) WHERE n > 0;"
        "CREATE UNIQUE INDEX one_n ON t (n)"
    )
    changes.source.execute(
        "INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)",
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO t VALUES (3, 'a', 1)",
        "UPDATE t SET mail = 'c' WHERE id = 3",
        "UPDATE t SET mail = 'A' WHERE id = 2",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, sink, "t")
    # What the source allows and the destination does not stops it, with the index's name.
    changes.source.execute("UPDATE t SET mail = 'a' WHERE id = 3")
    envelopes, before = changes.envelopes(), sink.position()
    with pytest.raises(PgfloError) as refused:
        sink.apply(envelopes)
    assert refused.value.kind is errors.SINK_REFUSED
    assert refused.value.context["constraint"] == "one_mail"
    sink.close()
    assert sink.position() == before
    sink.target.execute("DROP INDEX one_mail")
    sink.apply(envelopes)
    assert_equal(changes, sink, "t")


def test_a_key_that_the_destination_does_not_have(changes: Changes, sink: Sink) -> None:
    changes.source.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    sink.target.execute("CREATE TABLE t (id int, v text)")
    changes.frames()
    changes.source.execute(
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "UPDATE t SET v = 'c' WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
    )
    assert sink.apply(changes.envelopes()).conflicts == {}
    assert table_rows(sink.target, "t") == [("(1,c)",)]


def test_arrays_of_a_type_with_a_delimiter_of_its_own_are_updated_in_groups(
    changes: Changes, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "FEWEST_GROUPED_CHANGES", 0)
    on_both(
        changes,
        sink,
        "CREATE DOMAIN boxes AS box[];"
        "CREATE TABLE t (id int PRIMARY KEY, one box, many box[], domained boxes);"
        "INSERT INTO t SELECT generate_series(1, 3)",
    )
    many = "{(1,1),(0,0);(3,3),(2,2)}"
    changes.source.execute(
        sql.SQL("UPDATE t SET one = '(1,1),(0,0)', many = {0}, domained = {0} WHERE id < 3").format(
            many
        ),
        "UPDATE t SET one = NULL WHERE id = 3",
    )
    applied = sink.apply(changes.envelopes())
    assert_equal(changes, sink, "t")
    assert applied.grouped_changes == applied.changes == 3
