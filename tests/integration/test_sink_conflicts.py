"""A destination that is not as the source says: conflicts are counted and resolved, or stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from tests.fix_changes import assert_equal, bodies, on_both

from pgflo import errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from tests.fix_changes import Changes, Sink


def test_conflicts_are_resolved_and_counted_by_kind(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    changes.source.execute("INSERT INTO t VALUES (2, 'b'), (3, 'c')")
    changes.frames()
    sink.target.execute("INSERT INTO t VALUES (1, 'was here')")
    changes.source.execute(
        "INSERT INTO t VALUES (1, 'a')",
        "UPDATE t SET v = 'B' WHERE id = 2",
        "DELETE FROM t WHERE id = 3",
    )
    applied = sink.apply(changes.envelopes())
    assert_equal(changes, sink, "t")
    assert applied.conflicts == {"insert_exists": 1, "update_missing": 1, "delete_missing": 1}
    assert applied.careful_steps == 1


def test_only_the_step_that_met_a_conflict_is_applied_again(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE log (n int)")
    sink.target.execute("INSERT INTO t VALUES (3, 'was here')")
    transactions = sink.open()
    changes.source.execute(
        "BEGIN; INSERT INTO log VALUES (1); INSERT INTO t VALUES (1, 'a'); COMMIT"
    )
    changes.source.execute(
        "BEGIN; INSERT INTO log VALUES (2); INSERT INTO t VALUES (3, 'c');"
        "INSERT INTO log VALUES (3); COMMIT"
    )
    envelopes = changes.envelopes(target_body_bytes=1)
    assert len(envelopes) == 2
    for body in bodies(envelopes):
        transactions.step([body])
    applied = transactions.commit(changes.position, changes.end_lsn)
    assert applied.careful_steps == 1
    assert applied.changes == 5
    assert_equal(changes, sink, "t", "log")


def test_an_update_that_misses_its_row_and_a_toast_value_stops_the_sink(
    changes: Changes, sink: Sink
) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text);"
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL;"
        "INSERT INTO t VALUES (1, 1, repeat('x', 100000))",
    )
    sink.target.execute("DELETE FROM t")
    changes.source.execute("UPDATE t SET n = 2")
    with pytest.raises(PgfloError, match=r"public\.t at .*finds no row") as refused:
        sink.apply(changes.envelopes())
    assert refused.value.kind is errors.SINK_REFUSED
    assert sink.position() == (changes.start_lsn, 0)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_a_key_that_was_not_sent_whole_is_looked_for_with_its_old_part(
    changes: Changes, sink: Sink, identity: str
) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (id int, big text, v text, PRIMARY KEY (id, big));"
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL;"
        "INSERT INTO t VALUES (1, repeat('k', 2200), 'a')",
    )
    changes.source.execute(sql.SQL("ALTER TABLE t REPLICA IDENTITY {}").format(sql.SQL(identity)))
    # The row is there under its new key already.
    sink.target.execute("UPDATE t SET id = 2")
    changes.source.execute("UPDATE t SET id = 2, v = 'b'")
    applied = sink.apply(changes.envelopes())
    assert applied.conflicts == {"update_missing": 1}
    assert_equal(changes, sink, "t")


def test_a_full_old_row_stands_in_for_unchanged_values(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text);"
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL; ALTER TABLE t REPLICA IDENTITY FULL;"
        "INSERT INTO t VALUES (1, 1, repeat('x', 100000))",
    )
    sink.target.execute("DELETE FROM t")
    changes.source.execute("UPDATE t SET n = 2")
    applied = sink.apply(changes.envelopes())
    assert applied.conflicts == {"update_missing": 1}
    assert_equal(changes, sink, "t")


def test_a_failed_constraint_stops_with_table_position_and_constraint(
    changes: Changes, sink: Sink
) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    sink.target.execute("ALTER TABLE t ADD CONSTRAINT short CHECK (length(v) < 5)")
    changes.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'secret value')")
    envelopes = changes.envelopes()
    with pytest.raises(PgfloError) as refused:
        sink.apply(envelopes)
    error = refused.value
    assert error.kind is errors.SINK_REFUSED
    assert error.context["table"] == "public.t"
    assert error.context["constraint"] == "short"
    assert str(error.context["position"]).endswith(":2")
    assert "secret" not in f"{error} {error.context}"
    # Nothing moved; once the constraint is mended it goes on there.
    assert sink.position() == (changes.start_lsn, 0)
    sink.close()
    assert sink.target.value("SELECT count(*) FROM t") == 0
    sink.target.execute("ALTER TABLE t DROP CONSTRAINT short")
    sink.apply(envelopes)
    assert_equal(changes, sink, "t")


def test_a_missing_column_is_named_with_table_and_position(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    changes.source.execute("ALTER TABLE t ADD COLUMN w int", "INSERT INTO t VALUES (1, 'a', 2)")
    envelopes = changes.envelopes()
    with pytest.raises(PgfloError, match="lacks column w") as refused:
        sink.apply(envelopes)
    assert refused.value.kind is errors.SINK_COLUMN_MISSING
    assert refused.value.context["table"] == "public.t"
    assert "position" in refused.value.context
    sink.target.execute("ALTER TABLE t ADD COLUMN w int")
    sink.apply(envelopes)
    assert_equal(changes, sink, "t")


def test_a_missing_table_is_named(changes: Changes, sink: Sink) -> None:
    changes.source.execute("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    with pytest.raises(PgfloError, match=r"public\.t") as refused:
        sink.apply(changes.envelopes())
    assert refused.value.kind is errors.SINK_TABLE_MISSING


def test_a_column_that_changes_while_streaming_is_followed(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    changes.source.execute(
        "INSERT INTO t VALUES (1, 'a')",
        "ALTER TABLE t ADD COLUMN w int DEFAULT 7",
        "INSERT INTO t VALUES (2, 'b', 2)",
        "ALTER TABLE t DROP COLUMN v",
        "UPDATE t SET w = 3 WHERE id = 1",
    )
    sink.target.execute("ALTER TABLE t ADD COLUMN w int DEFAULT 7")
    assert sink.apply(changes.envelopes()).careful_steps == 0
    assert sink.target.rows("SELECT id, v, w FROM t ORDER BY id") == [(1, "a", 3), (2, "b", 2)]


def test_a_deferrable_key_is_kept_unique_although_the_server_does_not_check(
    changes: Changes, sink: Sink
) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE t (id int, v text, PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED);"
        "ALTER TABLE t REPLICA IDENTITY FULL",
    )
    sink.target.execute("INSERT INTO t VALUES (1, 'was here')")
    changes.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    applied = sink.apply(changes.envelopes())
    assert applied.conflicts == {"insert_exists": 1}
    assert_equal(changes, sink, "t")


def test_a_second_unique_key_that_is_taken_stops_the_sink(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, mail text)")
    sink.target.execute(
        "ALTER TABLE t ADD CONSTRAINT one_mail UNIQUE (mail); INSERT INTO t VALUES (9, 'x')"
    )
    changes.source.execute("INSERT INTO t VALUES (1, 'x')")
    with pytest.raises(PgfloError) as refused:
        sink.apply(changes.envelopes())
    assert refused.value.context["constraint"] == "one_mail"


def test_truncates_empty_the_same_tables_as_at_the_source(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE parent (id serial PRIMARY KEY);"
        "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);"
        "CREATE TABLE lone (n int GENERATED ALWAYS AS IDENTITY, v text)",
    )
    fill = (
        "INSERT INTO parent SELECT generate_series(1, 3); INSERT INTO child VALUES (1, 1);"
        "INSERT INTO lone (v) VALUES ('a'), ('b')"
    )
    changes.source.execute(fill, "TRUNCATE parent CASCADE", "INSERT INTO parent VALUES (7)")
    assert sink.apply(changes.envelopes()).careful_steps == 0
    assert_equal(changes, sink, "parent", "child", "lone")
    changes.source.execute("TRUNCATE lone RESTART IDENTITY")
    sink.apply(changes.envelopes())
    assert_equal(changes, sink, "lone")
    assert sink.target.value("INSERT INTO lone (v) VALUES ('x') RETURNING n") == 1


def test_a_table_that_others_refer_to_is_emptied_by_delete(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE parent (id int PRIMARY KEY)")
    sink.target.execute(
        "CREATE TABLE reports (parent int REFERENCES parent); INSERT INTO parent VALUES (1);"
        "INSERT INTO reports VALUES (1)"
    )
    changes.source.execute("INSERT INTO parent VALUES (2)", "TRUNCATE parent")
    sink.apply(changes.envelopes())
    assert_equal(changes, sink, "parent")
    assert sink.target.value("SELECT count(*) FROM reports") == 1


def test_triggers_and_foreign_keys_do_not_act_a_second_time(changes: Changes, sink: Sink) -> None:
    on_both(
        changes,
        sink,
        "CREATE TABLE parent (id int PRIMARY KEY);"
        "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);"
        "CREATE TABLE audit (n int);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO public.audit VALUES (1); RETURN NULL; END$$;"
        "CREATE TRIGGER note AFTER INSERT ON child FOR EACH ROW EXECUTE FUNCTION note()",
    )
    changes.source.execute(
        "INSERT INTO parent VALUES (1), (2)",
        "INSERT INTO child VALUES (1, 1), (2, 2)",
        "DELETE FROM parent WHERE id = 1",
    )
    applied = sink.apply(changes.envelopes())
    assert applied.careful_steps == 0
    assert_equal(changes, sink, "parent", "child", "audit")
