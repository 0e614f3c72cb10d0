"""A destination behind rules is what SQL makes of the source, whatever enters and leaves the set.

PostgreSQL is the judge: destinations equal `SELECT transformed columns FROM source WHERE filter`.
Two destinations take each history, one by net effects wherever it can, one change by change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import note
from hypothesis import strategies as st
from psycopg import sql
from tests.fix_property import within_budget

from pgflo.errors import SINK_REFUSED, PgfloError
from pgflo.rules.spec import OPERATIONS, Condition, GroupTable, Name, Route, Rule, Spec

if TYPE_CHECKING:
    from tests.fix_movement import Movement

LONG_EXAMPLES = 1500
T: Name = ("public", "t")
KEYS = 5
WHERE = {
    "state": (sql.SQL("state = 'in'"), "eq", "in"),
    "n": (sql.SQL("n >= 3"), "gte", "3"),
    "doc": (sql.SQL("strpos(doc, 'in') > 0"), "contains", "in"),
    "id": (sql.SQL("id <> 4"), "ne", "4"),
}
"""Filters by their column, in both languages."""
ROUTES = {
    "t": (sql.SQL("true"), ()),
    "t_in": (sql.SQL("n = 3"), (Condition("in", "n", "eq", "3"),)),
    "t_out": (sql.SQL("n <> 3"), (Condition("out", "n", "ne", "3"),)),
}
SELECT = sql.SQL(
    "SELECT id, state, n, doc, CASE WHEN length(tag) < 3 THEN repeat('*', length(tag)) ELSE"
    " left(tag, 1) || repeat('*', length(tag) - 2) || right(tag, 1) END"
    " FROM t WHERE {} ORDER BY id"
)


@dataclass(frozen=True)
class Change:
    """One statement at the source."""

    kind: str
    key: int
    other: int
    values: dict[str, str | int | None]

    def statement(self) -> sql.Composable:
        """Give it as SQL; one that would violate the key does nothing."""
        key = sql.Literal(self.key)
        match self.kind:
            case "insert":
                values = sql.SQL(", ").join(map(sql.Literal, self.values.values()))
                return sql.SQL("INSERT INTO t VALUES ({}, {}) ON CONFLICT DO NOTHING").format(
                    key, values
                )
            case "delete":
                return sql.SQL("DELETE FROM t WHERE id = {}").format(key)
            case "move":
                return sql.SQL(
                    "UPDATE t SET id = {0}, state = {1} WHERE id = {2}"
                    " AND NOT EXISTS (SELECT FROM t WHERE id = {0})"
                ).format(sql.Literal(self.other), sql.Literal(self.values["state"]), key)
            case _:
                sets = sql.SQL(", ").join(
                    sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
                    for name, value in self.values.items()
                )
                return sql.SQL("UPDATE t SET {} WHERE id = {}").format(sets, key)


@dataclass(frozen=True)
class History:
    """What is asked, and what happens at the source, a transaction after the other."""

    filters: tuple[str, ...]
    full: bool
    transactions: tuple[tuple[Change, ...], ...]
    body_bytes: int


@st.composite
def changes(draw: st.DrawFn, *, large: bool) -> Change:
    """Draw a statement. `large`: documents are kept out of line, and sent only if they change."""
    word = draw(st.sampled_from(["in", "out"]))
    values: dict[str, str | int | None] = {
        "state": draw(st.sampled_from(["in", "out", None])),
        "n": draw(st.sampled_from([1, 3, 5, None])),
        "doc": word * (1500 if large else 1),
        "tag": draw(st.sampled_from([None, "a", "anna", "o't\t\\"])),
    }
    kind = draw(st.sampled_from(["insert", "insert", "update", "update", "delete", "move"]))
    if kind == "update":
        chosen = draw(st.sets(st.sampled_from(sorted(values)), min_size=1))
        values = {name: value for name, value in values.items() if name in chosen}
    keys = st.integers(1, KEYS)
    return Change(kind, draw(keys), draw(keys), values)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draw a history. What the default identity cannot decide has a test of its own."""
    full = draw(st.booleans())
    each = changes(large=full and draw(st.booleans()))
    filters = draw(st.sets(st.sampled_from(sorted(WHERE)), min_size=1, max_size=3))
    transactions = draw(st.lists(st.lists(each, min_size=1, max_size=8), min_size=1, max_size=5))
    return History(
        tuple(sorted(filters)),
        full,
        tuple(map(tuple, transactions)),
        draw(st.sampled_from([64, 20_000])),
    )


def rules(oid: int, filters: tuple[str, ...], tables: tuple[str, ...] = tuple(ROUTES)) -> Spec:
    """Mask `tag`, and send what passes the filters to these tables."""
    asked = {name: told for name, told in WHERE.items() if name in filters}
    return Spec(
        (
            *(
                Rule(name, T, name, OPERATIONS, "filter", operator, value=value)
                for name, (_, operator, value) in asked.items()
            ),
            Rule("mask", T, "tag", OPERATIONS, "mask"),
        ),
        tuple(
            Route(name, T, ("public", name), (), OPERATIONS, when)
            for name, (_, when) in ROUTES.items()
            if name in tables
        ),
        (GroupTable(oid, "public", "t", None),),
    )


@within_budget(history=histories(), long_examples=LONG_EXAMPLES)
def test_destinations_hold_what_sql_selects(movement: Movement, history: History) -> None:
    note(repr(history))
    spec = rules(movement.begin(full=history.full), history.filters)
    for transaction in history.transactions:
        statements = sql.SQL("; ").join(change.statement() for change in transaction)
        movement.source.execute(sql.SQL("BEGIN; {}; COMMIT").format(statements))
    movement.follow(spec, target_body_bytes=history.body_bytes, max_body_bytes=65536)
    for table, (when, _) in ROUTES.items():
        conditions = [*(WHERE[name][0] for name in history.filters), when]
        expected = movement.source.rows(SELECT.format(sql.SQL(" AND ").join(conditions)))
        assert movement.rows(0, table) == expected
        assert movement.rows(1, table) == expected


LARGE = sql.SQL("repeat('in', 2000)")


def test_a_filter_on_a_value_that_was_not_sent_keeps_rows_where_they_are(
    movement: Movement,
) -> None:
    spec = rules(movement.begin(full=False), ("doc",), ("t",))
    movement.source.execute(
        sql.SQL(
            "INSERT INTO t VALUES (1, 'in', 3, {0}, NULL), (2, 'in', 3, repeat('out', 2000), NULL)"
        ).format(LARGE),
        "UPDATE t SET tag = 'x'",
    )
    movement.follow(spec)
    for number in (0, 1):
        assert [row[:1] + row[4:] for row in movement.rows(number, "t")] == [(1, "*")]


@pytest.mark.parametrize("filters", [("n",), ("doc", "n")])
def test_a_row_that_enters_without_all_its_values_stops_and_names_the_way_out(
    movement: Movement, filters: tuple[str, ...]
) -> None:
    spec = rules(movement.begin(full=False), filters)
    movement.source.execute(
        sql.SQL("INSERT INTO t VALUES (1, 'in', 1, {}, NULL)").format(LARGE),
        "UPDATE t SET n = 3",
    )
    with pytest.raises(PgfloError) as caught:
        movement.follow(spec)
    assert caught.value.kind is SINK_REFUSED
    assert "REPLICA IDENTITY FULL" in caught.value.hint
