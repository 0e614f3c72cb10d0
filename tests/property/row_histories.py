"""Draws histories of rows: transactions over `tables`, and destinations that differ beforehand.

Downstream: `test_apply_agrees`, which runs them at a source. What a statement meets is not known
here: one that violates a unique key is undone by itself (a subtransaction that aborts), the rest
of its transaction stays. Invariant: a history is valid at any state of the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from psycopg import sql
from tests.property.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.property.tables import Table

CALM = ("insert", "update", "delete")
"""Operations whose rows can be written in any order."""


@dataclass(frozen=True, repr=False)
class Op:
    """One operation: `first` to `third` are numbers of keys, `shade` says which values."""

    table: Table
    kind: str
    first: int
    second: int = 0
    third: int = 0
    shade: int = 0
    columns: int = 0
    """Bits: the columns that an update sets."""

    def __repr__(self) -> str:
        """Show what runs."""
        return self.statement().as_string()

    def statement(self) -> sql.Composable:
        """Give the operation as SQL, undone by itself where it would violate a key."""
        if self.kind == "truncate":
            return sql.SQL("TRUNCATE {}").format(sql.Identifier(self.table.name))
        return sql.SQL(
            "DO $op$BEGIN {}; SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED;"
            " EXCEPTION WHEN unique_violation THEN NULL; END$op$"
        ).format(sql.SQL("; ").join(self._steps()))

    def _steps(self) -> Iterable[sql.Composable]:
        first, second, third = self.first, self.second, self.third
        match self.kind:
            case "insert":
                yield self._insert()
            case "update":
                yield self._update(first)
            case "delete":
                yield self._delete()
            case "replace":
                yield self._delete()
                yield self._insert()
            case "move":
                yield self._update(first, second)
            case "chain":
                yield self._update(second, third)
                yield self._update(first, second)
            case "pass":
                yield self._update(first, second)
                yield self._update(second, third)
            case "swap":
                yield self._update(first, third)
                yield self._update(second, first)
                yield self._update(third, second)
            case "exchange":
                yield self._exchange()
            case "swap unique":
                yield self._swap_unique()

    def _insert(self) -> sql.Composable:
        """Give the INSERT of the first key."""
        values = {**dict(zip(self.table.key, self._key(self.first), strict=True)), **self._values()}
        return sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            sql.Identifier(self.table.name), _names(values), _literals(values.values())
        )

    def _values(self) -> dict[str, str | None]:
        return {
            name: values[(self.shade * (2 * number + 1) + number) % len(values)]
            for number, (name, values) in enumerate(self.table.columns.items())
        }

    def _update(self, number: int, to: int | None = None) -> sql.Composable:
        chosen = {
            name: value
            for bit, (name, value) in enumerate(self._values().items())
            if self.columns >> bit & 1
        }
        if to is not None or not chosen:
            key = self._key(number if to is None else to)
            chosen |= dict(zip(self.table.key, key, strict=True))
        return sql.SQL("UPDATE {} SET {} WHERE {}").format(
            sql.Identifier(self.table.name),
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
                for name, value in chosen.items()
            ),
            self._is(number),
        )

    def _delete(self) -> sql.Composable:
        return sql.SQL("DELETE FROM {} WHERE {}").format(
            sql.Identifier(self.table.name), self._is(self.first)
        )

    def _exchange(self) -> sql.Composable:
        """Swap the values of a deferrable key in one statement."""
        column = "w" if self.table.name == "second" else self.table.key[0]
        one, two = (sql.Literal(self._key(number)[0]) for number in (self.first, self.second))
        return sql.SQL(
            "UPDATE {table} SET {column} = CASE {column} WHEN {one} THEN {two}::int ELSE {one} END"
            " WHERE {column} IN ({one}, {two})"
        ).format(
            table=sql.Identifier(self.table.name), column=sql.Identifier(column), one=one, two=two
        )

    def _swap_unique(self) -> sql.Composable:
        """Swap unique values of two rows, which no statement can do at once."""
        return sql.SQL(
            "DECLARE one int; two int; BEGIN"
            " SELECT u INTO one FROM second WHERE {first}; SELECT u INTO two FROM second WHERE"
            " {second}; UPDATE second SET u = NULL WHERE {first};"
            " UPDATE second SET u = one WHERE {second}; UPDATE second SET u = two WHERE {first};"
            " END"
        ).format(first=self._is(self.first), second=self._is(self.second))

    def _is(self, number: int) -> sql.Composable:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
            for name, value in zip(self.table.key, self._key(number), strict=True)
        )

    def _key(self, number: int) -> tuple[str, ...]:
        return self.table.keys[number % len(self.table.keys)]


@dataclass(frozen=True, repr=False)
class History:
    """Transactions of the source, and how they travel."""

    transactions: tuple[tuple[Op, ...], ...]
    target_body_bytes: int
    epoch_ends: tuple[bool, ...]
    """Whether an epoch ends behind each body, again and again."""

    def __repr__(self) -> str:
        """Show what runs."""
        return f"{self.script().as_string()} {self.target_body_bytes} {self.epoch_ends}"

    @property
    def is_grouped(self) -> bool:
        """Whether every change must go by the short way."""
        return all(
            op.kind in CALM and op.table.is_calm
            for transaction in self.transactions
            for op in transaction
        )

    def script(self) -> sql.Composable:
        """Give all transactions as one text."""
        return sql.SQL("").join(
            sql.SQL("BEGIN; {}; COMMIT;").format(
                sql.SQL("; ").join(op.statement() for op in transaction)
            )
            for transaction in self.transactions
        )


def first_rows() -> sql.Composable:
    """Give every table the rows that each history begins with: every other key."""
    rows = [
        Op(table, "insert", number, shade=number).statement()
        for table in TABLES
        if table.name != "always"  # its numbers would differ from side to side
        for number in range(0, len(table.keys), 2)
    ]
    # DELETE takes a tenth of the time; a table without an identity cannot publish it.
    empty = [
        sql.SQL("TRUNCATE {}" if table.only_inserts else "DELETE FROM {}").format(
            sql.Identifier(table.name)
        )
        for table in TABLES
    ]
    return sql.SQL("; ").join(empty + rows)


@st.composite
def ops(draw: st.DrawFn, tables: Sequence[Table], *, calm: bool) -> Op:
    """Draw one operation."""
    table = draw(st.sampled_from(tables))
    return Op(
        table,
        draw(st.sampled_from(_kinds(table, calm=calm))),
        draw(st.integers(0, 7)),
        draw(st.integers(0, 7)),
        draw(st.integers(0, 7)),
        draw(st.integers(0, 30)),
        draw(st.integers(0, 2**24 - 1) if len(table.columns) > 4 else st.integers(0, 7)),
    )


def _kinds(table: Table, *, calm: bool) -> list[str]:
    if table.only_inserts:
        return ["insert"] if calm else ["insert", "insert", "insert", "truncate"]
    kinds = list(CALM)
    if calm:
        return kinds
    kinds += ["update", "replace", "move", "chain", "pass", "swap"]
    if table.name in ("later", "second"):
        kinds.append("exchange")
    if table.name == "second":
        kinds.append("swap unique")
    return [*kinds, *kinds, "truncate"]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draw a history of a few tables."""
    calm = draw(st.booleans())
    fitting = [table for table in TABLES if not calm or table.is_calm]
    few = draw(
        st.lists(st.sampled_from(fitting), min_size=1, max_size=4, unique_by=lambda t: t.name)
    )
    transaction = st.lists(ops(few, calm=calm), min_size=1, max_size=12).map(tuple)
    return History(
        tuple(draw(st.lists(transaction, min_size=1, max_size=6))),
        draw(st.sampled_from([1, 2000, 256 * 1024])),
        tuple(draw(st.lists(st.booleans(), min_size=1, max_size=4))),
    )


@st.composite
def differing(draw: st.DrawFn) -> tuple[History, tuple[Op, ...]]:
    """Draw a history, and what makes the destination differ before it."""
    history = draw(histories())
    tables = {
        op.table.name: op.table
        for transaction in history.transactions
        for op in transaction
        if op.table.name != "always" and not op.table.only_inserts
    }
    if not tables:
        return history, ()
    drawn = draw(
        st.lists(ops(sorted(tables.values(), key=lambda t: t.name), calm=True), max_size=5)
    )
    return history, tuple(drawn)


def _names(names: Iterable[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _literals(values: Iterable[str | None]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Literal, values))
