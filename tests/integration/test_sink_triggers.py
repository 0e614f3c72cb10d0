"""Triggers and rules of the destination see each change, whichever way it is applied."""

from __future__ import annotations

import dataclasses
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.fix_changes import assert_equal, on_both

from pgflo.sinks.postgres import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_changes import Changes, Sink
    from tests.fix_postgres import Database

AUDIT = (
    "CREATE TABLE audit (number serial, op text, v text);"
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
    " INSERT INTO public.audit (op, v) VALUES (tg_op, coalesce(new.v, old.v)); RETURN NULL; END$$;"
    "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note()"
)
EACH_CHANGE = [
    ("INSERT", "a"),
    ("UPDATE", "b"),
    ("UPDATE", "c"),
    ("INSERT", "x"),
    ("DELETE", "c"),
]


@pytest.fixture(autouse=True)
def always_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try net effects however few changes there are."""
    monkeypatch.setattr(transaction, "FEWEST_GROUPED_CHANGES", 0)


def change(changes: Changes) -> None:
    """Make changes of which net effects would leave a single one."""
    changes.source.execute(
        "INSERT INTO t VALUES (1, 'a')",
        "UPDATE t SET v = 'b'",
        "UPDATE t SET v = 'c'",
        "INSERT INTO t VALUES (2, 'x')",
        "DELETE FROM t WHERE id = 1",
    )


def noted(sink: Sink) -> list[tuple[str, str]]:
    """Return what the trigger saw, in order."""
    return sink.target.rows("SELECT op, v FROM audit ORDER BY number")


@contextmanager
def ordinary_role(database: Database) -> Iterator[str]:
    """Give a role that may write all tables and no more: it cannot switch triggers off."""
    role = f"ordinary_{secrets.token_hex(4)}"
    named = sql.Identifier(role)
    database.execute(sql.SQL("CREATE ROLE {} LOGIN").format(named))
    for schema in ("public", "pgflo"):
        for grant in (
            "GRANT USAGE ON SCHEMA {schema} TO {role}",
            "GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}",
            "GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
        ):
            database.execute(sql.SQL(grant).format(schema=sql.Identifier(schema), role=named))
    try:
        yield role
    finally:
        database.execute(
            sql.SQL("DROP OWNED BY {}").format(named), sql.SQL("DROP ROLE {}").format(named)
        )


def test_triggers_of_a_role_that_cannot_switch_them_off_see_each_change(
    changes: Changes, sink: Sink
) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    sink.target.execute(AUDIT)
    change(changes)
    with ordinary_role(sink.target) as role:
        sink.to = dataclasses.replace(sink.to, conninfo=make_conninfo(sink.target.dsn, user=role))
        applied = sink.apply(changes.envelopes())
        sink.close()
    assert_equal(changes, sink, "t")
    assert noted(sink) == EACH_CHANGE
    assert applied.grouped_changes == 0


@pytest.mark.parametrize("kind", ["ALWAYS", "REPLICA"])
def test_triggers_that_fire_for_replicas_see_each_change(
    changes: Changes, sink: Sink, kind: str
) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    sink.target.execute(
        AUDIT, sql.SQL("ALTER TABLE t ENABLE {} TRIGGER note").format(sql.SQL(kind))
    )
    change(changes)
    applied = sink.apply(changes.envelopes())
    assert_equal(changes, sink, "t")
    assert noted(sink) == EACH_CHANGE
    assert applied.grouped_changes == 0


def test_rules_see_each_change(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    sink.target.execute(
        "CREATE TABLE audit (number serial, op text, v text);"
        "CREATE RULE note AS ON INSERT TO t DO ALSO"
        " INSERT INTO public.audit (op, v) VALUES ('INSERT', new.v);"
        "ALTER TABLE t ENABLE ALWAYS RULE note"
    )
    change(changes)
    sink.apply(changes.envelopes())
    assert_equal(changes, sink, "t")
    assert noted(sink) == [("INSERT", "a"), ("INSERT", "x")]


def test_triggers_that_are_switched_off_cost_nothing(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    sink.target.execute(AUDIT)
    change(changes)
    applied = sink.apply(changes.envelopes())
    assert_equal(changes, sink, "t")
    assert noted(sink) == []
    assert applied.grouped_changes == applied.changes == len(EACH_CHANGE)


def test_a_trigger_that_reads_another_table_finds_it_as_it_was_then(
    changes: Changes, sink: Sink
) -> None:
    # GIVEN a trigger that fires for replicas and looks a row of another table up
    on_both(
        changes,
        sink,
        "CREATE TABLE y (id int PRIMARY KEY, v text);"
        "INSERT INTO y VALUES (1, 'then'), (2, 'gone');"
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
    )
    sink.target.execute(
        "CREATE TABLE audit (number serial, op text, v text);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " INSERT INTO public.audit (op, v) SELECT tg_op, y.v FROM public.y WHERE y.id = new.id;"
        " RETURN NULL; END$$;"
        "CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();"
        "ALTER TABLE t ENABLE ALWAYS TRIGGER note"
    )
    # WHEN that table changes behind the rows that it is looked up for, in the same epoch
    changes.source.execute(
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "UPDATE y SET v = 'now' WHERE id = 1",
        "DELETE FROM y WHERE id = 2",
    )
    sink.apply(changes.envelopes())
    # THEN the trigger saw what stood there then
    assert noted(sink) == [("INSERT", "then"), ("INSERT", "gone")]
    assert_equal(changes, sink, "t", "y")
