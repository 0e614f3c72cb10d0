"""A role that may not silence triggers and foreign keys: they act, and changes still arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from structlog.testing import capture_logs
from tests.fix_changes import assert_equal, on_both

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.sinks.postgres.connection import is_replica

if TYPE_CHECKING:
    from tests.fix_changes import Changes, Sink

FAMILY = (
    "CREATE TABLE parent (id int PRIMARY KEY, v text);"
    "CREATE TABLE child (id int PRIMARY KEY, parent int, v text,"
    " CONSTRAINT of_parent FOREIGN KEY (parent) REFERENCES parent"
)


def test_the_warning_names_the_grant_and_the_session_knows(plain: Sink, sink: Sink) -> None:
    with capture_logs() as logs, plain.to.connect("worker", warn=True) as conn:
        assert not is_replica(conn)
        role = sql.Identifier(conn.info.user).as_string()
    (warning,) = logs
    assert warning["grant"] == f"GRANT SET ON PARAMETER session_replication_role TO {role}"
    plain.target.execute(sql.SQL(warning["grant"]))
    with capture_logs() as logs, plain.to.connect("worker", warn=True) as conn:
        assert is_replica(conn)
    assert logs == []
    with sink.to.connect("worker") as conn:
        assert is_replica(conn)


def test_rows_arrive_in_the_order_that_foreign_keys_ask_for(changes: Changes, plain: Sink) -> None:
    on_both(changes, plain, f"{FAMILY})")
    changes.source.execute(
        "INSERT INTO parent SELECT g, 'p' FROM generate_series(1, 50) g",
        "INSERT INTO child SELECT g, 1 + g % 50, 'c' FROM generate_series(1, 500) g",
        "UPDATE child SET parent = 1 WHERE parent > 25",
        "DELETE FROM parent WHERE id > 25",
        "INSERT INTO parent VALUES (100, 'late')",
        "UPDATE child SET parent = 100 WHERE id % 2 = 0",
        "TRUNCATE child",
        "DELETE FROM parent WHERE id = 100",
    )
    assert plain.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, plain, "parent", "child")


def test_what_a_cascade_deleted_already_is_counted_and_passed(
    changes: Changes, plain: Sink
) -> None:
    on_both(changes, plain, f"{FAMILY} ON DELETE CASCADE)")
    changes.source.execute(
        "INSERT INTO parent VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO child VALUES (1, 1, 'x'), (2, 1, 'y'), (3, 2, 'z')",
        "DELETE FROM parent WHERE id = 1",
    )
    assert plain.apply(changes.envelopes()).conflicts == {"delete_missing": 2}
    assert_equal(changes, plain, "parent", "child")


def test_what_a_cascade_changed_already_is_changed_once(changes: Changes, plain: Sink) -> None:
    # The foreign key is part of the child's key: its changes come as rows that move.
    on_both(
        changes,
        plain,
        "CREATE TABLE parent (id int PRIMARY KEY, v text);"
        "CREATE TABLE child (parent int REFERENCES parent ON UPDATE CASCADE, n int, big text,"
        " PRIMARY KEY (parent, n)); ALTER TABLE child ALTER big SET STORAGE EXTERNAL;"
        "CREATE TABLE beside (id int PRIMARY KEY,"
        " parent int REFERENCES parent ON UPDATE CASCADE ON DELETE SET NULL)",
    )
    changes.source.execute(
        "INSERT INTO parent VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO child VALUES (1, 1, 'small'), (1, 2, repeat('x', 9000)), (2, 1, 'other')",
        "INSERT INTO beside VALUES (1, 1), (2, 2)",
        "UPDATE parent SET id = 10 WHERE id = 1",
        "UPDATE parent SET id = 1 WHERE id = 10",
        "DELETE FROM child WHERE parent = 2",
        "DELETE FROM parent WHERE id = 2",
    )
    applied = plain.apply(changes.envelopes())
    assert_equal(changes, plain, "parent", "child", "beside")
    assert set(applied.conflicts) == {"update_missing"}


def test_a_constraint_that_waits_for_the_commit_does_so_here_too(
    changes: Changes, plain: Sink
) -> None:
    on_both(
        changes,
        plain,
        f"{FAMILY} DEFERRABLE);"
        "CREATE TABLE ring (id int PRIMARY KEY, next int REFERENCES ring"
        " DEFERRABLE INITIALLY DEFERRED)",
    )
    changes.source.execute(
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO child VALUES (1, 7, 'first');"
        "INSERT INTO parent VALUES (7, 'then'); COMMIT",
        "BEGIN; INSERT INTO ring VALUES (1, 2); INSERT INTO ring VALUES (2, 3);"
        "INSERT INTO ring VALUES (3, 1); COMMIT",
        "BEGIN; DELETE FROM ring WHERE id = 2; UPDATE ring SET next = 3 WHERE id = 1; COMMIT",
    )
    assert plain.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, plain, "parent", "child", "ring")


def test_a_truncate_does_not_wait_for_checks_of_earlier_transactions(
    changes: Changes, plain: Sink
) -> None:
    on_both(changes, plain, f"{FAMILY} DEFERRABLE)")
    changes.source.execute(
        "INSERT INTO parent VALUES (1, 'a')",
        "INSERT INTO child VALUES (1, 1, 'x')",
        "TRUNCATE parent, child",
        "INSERT INTO parent VALUES (2, 'b')",
    )
    assert plain.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, plain, "parent", "child")


def test_a_constraint_that_fails_at_the_commit_is_named(changes: Changes, plain: Sink) -> None:
    on_both(changes, plain, f"{FAMILY} DEFERRABLE)")
    changes.source.execute("ALTER TABLE child DROP CONSTRAINT of_parent")
    changes.source.execute("INSERT INTO child VALUES (1, 404, 'secret')")
    envelopes = changes.envelopes()
    with pytest.raises(PgfloError) as refused:
        plain.apply(envelopes)
    error = refused.value
    assert error.kind is errors.SINK_REFUSED
    assert error.context["table"] == "public.child"
    assert error.context["constraint"] == "of_parent"
    assert "position" in error.context
    assert "404" not in str(error)
    plain.close()
    assert plain.position() == (changes.start_lsn, 0)
    plain.target.execute("INSERT INTO parent VALUES (404, 'mended')")
    plain.apply(envelopes)
    assert_equal(changes, plain, "child")


def test_triggers_act(changes: Changes, plain: Sink) -> None:
    on_both(changes, plain, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    plain.target.execute(
        "CREATE TABLE seen (id int); CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO public.seen VALUES (NEW.id); RETURN NEW; END$$;"
        "CREATE TRIGGER see AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION see()"
    )
    changes.source.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    assert plain.apply(changes.envelopes()).conflicts == {}
    assert plain.target.rows("SELECT id FROM seen ORDER BY id") == [(1,), (2,)]


def test_a_changed_row_keeps_the_rows_that_hang_on_it(changes: Changes, plain: Sink) -> None:
    """An UPDATE of a row with a GENERATED ALWAYS identity is no DELETE for its children."""
    on_both(
        changes,
        plain,
        "CREATE TABLE parent (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);"
        "ALTER TABLE parent REPLICA IDENTITY FULL;"
        "CREATE TABLE child (id int PRIMARY KEY,"
        " parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);"
        "CREATE TABLE only_key (id int PRIMARY KEY);"
        "CREATE TABLE of_key (id int PRIMARY KEY, k int REFERENCES only_key ON DELETE CASCADE)",
    )
    changes.source.execute(
        "INSERT INTO parent (v) VALUES ('a'), ('b')",
        "INSERT INTO child VALUES (1, 1), (2, 2)",
        "UPDATE parent SET v = 'c' WHERE id = 1",
        "INSERT INTO only_key VALUES (1)",
        "INSERT INTO of_key VALUES (1, 1)",
    )
    assert plain.apply(changes.envelopes()).conflicts == {}
    assert_equal(changes, plain, "parent", "child", "only_key", "of_key")
    # The same key again, over a row that is there: nothing to change, and no cascade.
    changes.source.execute("INSERT INTO only_key VALUES (2)", "INSERT INTO of_key VALUES (2, 2)")
    plain.target.execute("INSERT INTO only_key VALUES (2)", "INSERT INTO of_key VALUES (9, 2)")
    assert plain.apply(changes.envelopes()).conflicts == {"insert_exists": 1}
    assert plain.target.rows("SELECT id FROM of_key ORDER BY id") == [(1,), (2,), (9,)]
