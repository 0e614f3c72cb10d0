"""The SQL that each shape of change becomes, for tables that are like others and for odd ones."""

from __future__ import annotations

import pytest

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.sinks.postgres.catalog import Column, Table, UniqueKey
from pgflo.sinks.postgres.statements import Change, Plan, Source, Text, plan

INT, TEXT = 23, 25


def column(name: str, type_oid: int = TEXT, **flags: bool) -> Column:
    return Column(
        name,
        type_oid,
        flags.get("generated", False),
        flags.get("identity_always", False),
        array_oid=1000 + type_oid,
        delimiter=ord(","),
        type_name="a type",
    )


def key(*columns: str, immediate: bool = True, operator: str = "pg_catalog") -> UniqueKey:
    return UniqueKey(columns, ((operator, "="),) * len(columns), True, immediate, True)


def table(*columns: Column, keys: tuple[UniqueKey, ...] = (), partitioned: bool = False) -> Table:
    by_name = {each.name: each for each in columns}
    return Table(1, "public", "t", partitioned, by_name, keys, acts_on_rows=False)


PLAIN = table(column("id", INT), column("v"), column("big"), keys=(key("id"),))
BY_ID = Source(("id", "v", "big"), (0,), full=False)


def text(statement: Text | None) -> str:
    assert statement is not None
    return statement.query.as_string()


def test_an_insert_names_every_column_and_carries_their_types() -> None:
    chosen = plan(Change("I"), BY_ID, PLAIN)
    assert text(chosen.primary) == (
        'INSERT INTO "public"."t" ("id", "v", "big") VALUES ($1, $2, $3)'
    )
    assert chosen.primary is not None
    assert chosen.primary.params == (("new", 0), ("new", 1), ("new", 2))
    assert chosen.primary.types == (INT, TEXT, TEXT)
    assert chosen.fallback is None


def test_a_careful_insert_updates_the_row_that_is_there() -> None:
    chosen = plan(Change("I", careful=True), BY_ID, PLAIN)
    assert text(chosen.primary).endswith('ON CONFLICT ("id") DO NOTHING')
    assert text(chosen.fallback) == (
        'UPDATE ONLY "public"."t" SET "id" = $1, "v" = $2, "big" = $3'
        ' WHERE "id" OPERATOR("pg_catalog".=) $1'
    )
    assert chosen.conflict == "insert_exists"


def test_an_update_sets_what_was_sent_and_leaves_an_unchanged_key_alone() -> None:
    chosen = plan(Change("U", unchanged=frozenset({2})), BY_ID, PLAIN)
    assert text(chosen.primary) == (
        'UPDATE ONLY "public"."t" SET "v" = $1 WHERE "id" OPERATOR("pg_catalog".=) $2'
    )


def test_an_update_with_an_old_key_sets_the_new_one() -> None:
    chosen = plan(Change("U", old="K", unchanged=frozenset({2})), BY_ID, PLAIN)
    assert text(chosen.primary) == (
        'UPDATE ONLY "public"."t" SET "id" = $1, "v" = $2 WHERE "id" OPERATOR("pg_catalog".=) $3'
    )
    assert chosen.primary is not None
    assert chosen.primary.params[-1] == ("old", 0)


def test_an_update_that_changes_nothing_runs_nothing() -> None:
    assert plan(Change("U", unchanged=frozenset({1, 2})), BY_ID, PLAIN) == Plan(None)


@pytest.mark.parametrize(
    ("change", "has_fallback"),
    [
        (Change("U", careful=True), True),
        (Change("U", careful=True, unchanged=frozenset({2})), False),
        (Change("U", old="O", careful=True, unchanged=frozenset({2})), True),
    ],
)
def test_a_careful_update_inserts_only_if_every_value_is_known(
    change: Change, *, has_fallback: bool
) -> None:
    chosen = plan(change, BY_ID, PLAIN)
    assert (chosen.fallback is not None) is has_fallback
    assert chosen.conflict == "update_missing"


def test_operators_come_from_the_index() -> None:
    odd = table(column("id", INT), column("v"), column("big"), keys=(key("id", operator="ext"),))
    assert 'OPERATOR("ext".=)' in text(plan(Change("D", old="K"), BY_ID, odd).primary)


def test_without_any_key_one_row_of_the_same_image_is_meant() -> None:
    chosen = plan(
        Change("D", old="O"), Source(("a", "b"), (0, 1), full=True), table(column("a"), column("b"))
    )
    assert text(chosen.primary) == (
        'DELETE FROM ONLY "public"."t" WHERE (tableoid, ctid) ='
        ' (SELECT tableoid, ctid FROM ONLY "public"."t" WHERE'
        ' ROW("a", "b")::record OPERATOR(pg_catalog.*=) ROW($1, $2)::record LIMIT 1)'
    )


def test_without_key_and_old_row_nothing_is_guessed() -> None:
    with pytest.raises(PgfloError) as refused:
        plan(Change("U"), Source(("a",), (), full=False), table(column("a")))
    assert refused.value.kind is errors.SINK_REFUSED


def test_generated_columns_are_left_out() -> None:
    generated = table(column("id"), column("v", generated=True), column("big"), keys=(key("id"),))
    assert '"v"' not in text(plan(Change("I"), BY_ID, generated).primary)
    assert '"v"' not in text(plan(Change("U"), BY_ID, generated).primary)


def test_an_identity_column_that_changes_moves_the_row_and_no_other_does() -> None:
    always = table(
        column("id", INT, identity_always=True), column("v"), column("big"), keys=(key("id"),)
    )
    assert "OVERRIDING SYSTEM VALUE" in text(plan(Change("I"), BY_ID, always).primary)
    assert text(plan(Change("U"), BY_ID, always).primary).startswith("UPDATE")
    moved = plan(Change("U", old="K", unchanged=frozenset({2})), BY_ID, always)
    assert text(moved.primary) == (
        'WITH there AS (UPDATE ONLY "public"."t" SET "v" = $2'
        ' WHERE "id" OPERATOR("pg_catalog".=) $1 AND "id" = $3 RETURNING 1),'
        ' gone AS (DELETE FROM ONLY "public"."t"'
        ' WHERE "id" OPERATOR("pg_catalog".=) $1 AND "id" <> $3 RETURNING "big"),'
        ' added AS (INSERT INTO "public"."t" ("id", "v", "big") OVERRIDING SYSTEM VALUE'
        ' SELECT $3, $2, gone."big" FROM gone RETURNING 1)'
        " SELECT FROM there UNION ALL SELECT FROM added"
    )


def test_a_deferrable_key_is_asked_for_by_the_insert_itself() -> None:
    deferrable = table(
        column("id", INT), column("v"), column("big"), keys=(key("id", immediate=False),)
    )
    chosen = plan(Change("I", careful=True), BY_ID, deferrable)
    assert "ON CONFLICT" not in text(chosen.primary)
    assert "WHERE NOT EXISTS (SELECT FROM" in text(chosen.primary)


def test_a_partitioned_table_is_written_as_a_whole() -> None:
    root = table(column("id", INT), column("v"), column("big"), keys=(key("id"),), partitioned=True)
    assert text(plan(Change("D", old="K"), BY_ID, root).primary).startswith(
        'DELETE FROM "public"."t" WHERE'
    )


def test_every_missing_column_is_named() -> None:
    with pytest.raises(PgfloError, match="lacks columns x, y") as refused:
        plan(Change("I"), Source(("id", "x", "y"), (0,), full=False), PLAIN)
    assert refused.value.kind is errors.SINK_COLUMN_MISSING
    assert refused.value.context == {"table": "public.t"}


def test_names_cannot_break_out_of_their_quotes() -> None:
    evil = Table(1, 'a"b', "t; --", False, {'c"d': column('c"d')}, (), acts_on_rows=False)
    assert text(plan(Change("I"), Source(('c"d',), (), full=False), evil).primary) == (
        'INSERT INTO "a""b"."t; --" ("c""d") VALUES ($1)'
    )
