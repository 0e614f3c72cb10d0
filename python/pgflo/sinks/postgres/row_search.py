"""Which row of a destination table a change means: found by its key, its image, or both.

Upstream: `statements` builds on it, once per shape of change. Downstream: SQL conditions whose
values are parameters of the destination columns' own types.
Invariants: names go through psycopg.sql; a key is compared as the destination's index compares it,
an image byte for byte, as the column keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from psycopg import sql

from pgflo import errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pgflo import _core
    from pgflo.sinks.postgres.catalog import Table, UniqueKey

Side = Literal["new", "old", "new_or_old"]

NO_COLUMNS: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Source:
    """A relation as its changes arrive: columns by number, from 0."""

    columns: tuple[str, ...]
    key: tuple[int, ...]
    """Columns of the replica identity; all of them under FULL."""
    full: bool
    """REPLICA IDENTITY FULL: old tuples are whole rows."""


@dataclass(frozen=True, slots=True)
class Change:
    """One shape of change."""

    op: str
    """I, U or D."""
    old: str = ""
    """Old tuple: "" none, "K" key columns, "O" whole row."""
    unchanged: frozenset[int] = NO_COLUMNS
    """Columns whose new value the source did not send (unchanged TOAST)."""
    careful: bool = False
    presence: str = ""
    """What is known of the row, where rules keep rows out: "", maybe, stays or undecided."""


@dataclass(frozen=True, slots=True)
class Text:
    """A statement to prepare: `$n` is `params[n - 1]`, of type `types[n - 1]`."""

    query: sql.Composable
    params: tuple[tuple[Side, int], ...]
    types: tuple[int, ...]


@dataclass(slots=True)
class Params:
    """Numbers the parameters of one statement; the same value has one number."""

    numbers: dict[tuple[Side, int], int] = field(default_factory=dict)
    types: list[int] = field(default_factory=list)

    def use(self, side: Side, column: int, type_oid: int) -> sql.Composable:
        """Give the placeholder of a column's value."""
        number = self.numbers.setdefault((side, column), len(self.numbers) + 1)
        if number > len(self.types):
            self.types.append(type_oid)
        return sql.SQL(f"${number:d}")

    def text(self, query: sql.Composable) -> Text:
        """Close the statement."""
        return Text(query, tuple(self.numbers), tuple(self.types))


def source_of(relation: _core.Relation) -> Source:
    """Describe a relation as its changes arrive."""
    return Source(
        tuple(column.name for column in relation.columns),
        tuple(number for number, column in enumerate(relation.columns) if column.key),
        full=relation.replica_identity == "f",
    )


def row_constraint(source: Source, table: Table) -> UniqueKey | None:
    """Find the destination's unique key that the source's rows can violate by identity."""
    identity = () if source.full else [source.columns[n] for n in source.key]
    return key_of_rows(identity, source.columns, table)


def key_of_rows(
    identity: Sequence[str], columns: Collection[str], table: Table
) -> UniqueKey | None:
    """Give the key that tells the rows of a source apart: over its identity, else any that does."""
    key = table.key_over(identity) if identity else table.row_key()
    return key if key and set(key.columns) <= set(columns) else None


def by_operator(
    left: sql.Composable, operator: tuple[str, str], right: sql.Composable
) -> sql.Composable:
    """Compare with an operator given by schema and name."""
    schema, name = operator
    # Operator names cannot be quoted; this one was read from pg_operator.
    return sql.SQL("{} OPERATOR({}.{}) {}").format(
        left, sql.Identifier(schema), sql.SQL(name), right
    )


class RowSearch:
    """What one change and the two tables say about its row: columns by source column number."""

    def __init__(self, change: Change, source: Source, table: Table) -> None:
        missing = [name for name in source.columns if name not in table.columns]
        if missing:
            raise PgfloError(
                errors.SINK_COLUMN_MISSING,
                f"the destination table {table.schema}.{table.name} lacks"
                f" column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
                table=f"{table.schema}.{table.name}",
            )
        self.change = change
        self.source = source
        self.table = table
        self.number = {name: number for number, name in enumerate(source.columns)}
        self.columns = [table.columns[name] for name in source.columns]
        self.written = [n for n, column in enumerate(self.columns) if not column.generated]
        self.constraint = row_constraint(source, table)
        self.key = self._find_key()

    def _find_key(self) -> tuple[int, ...]:
        """Numbers of the columns by which rows are found; none: by their image."""
        if self.constraint is not None:
            return tuple(self.number[name] for name in self.constraint.columns)
        return () if self.source.full else self.source.key

    def by_key(self, params: Params, side: Side) -> sql.Composable:
        """Compare the key columns, with the operators of the index.

        What the new key did not send (unchanged TOAST) is as in the old one.
        """
        unsent = self.change.unchanged if side == "new" and self.change.old else NO_COLUMNS
        operators = dict(
            zip(self.constraint.columns, self.constraint.operators, strict=True)
            if self.constraint
            else ()
        )
        return sql.SQL(" AND ").join(
            by_operator(
                sql.Identifier(self.source.columns[n]),
                operators.get(self.source.columns[n], ("pg_catalog", "=")),
                self.value(params, "new_or_old" if n in unsent else side, n),
            )
            for n in self.key
        )

    def is_deferrable(self) -> bool:
        """Whether the key is one that the server does not enforce in replica role."""
        return self.constraint is not None and not self.constraint.immediate

    def _by_image(self, params: Params) -> sql.Composable:
        return sql.SQL(
            "(tableoid, ctid) = (SELECT tableoid, ctid FROM {} WHERE {} LIMIT 1)"
        ).format(self.table.only, self._has_image(params))

    def _by_key_and_image(self, params: Params) -> sql.Composable:
        """Find the row of the old key that looks like the old row, else one from before.

        A row that was written in this transaction and looks otherwise is the new owner of the key.
        """
        return sql.SQL(
            "(tableoid, ctid) = (SELECT tableoid, ctid FROM {table} WHERE {key} AND ({image} OR"
            " pg_catalog.age(xmin) > pg_catalog.age(pg_catalog.pg_current_xact_id()::xid))"
            " ORDER BY {image} DESC LIMIT 1)"
        ).format(
            table=self.table.only,
            key=self.by_key(params, "old"),
            image=self._has_image(params),
        )

    def _has_image(self, params: Params) -> sql.Composable:
        """Compare bytes: types without equality have them too."""
        return sql.SQL("ROW({})::record OPERATOR(pg_catalog.*=) ROW({})::record").format(
            self.names(self.written),
            sql.SQL(", ").join(self._stored(params, "old", n) for n in self.written),
        )

    def row(self, params: Params) -> sql.Composable:
        """Give the condition that finds the row an UPDATE or DELETE means."""
        if self.key and self.change.old == "O" and self.is_deferrable():
            return self._by_key_and_image(params)
        if self.key:
            return self.by_key(params, "old" if self.change.old else "new")
        if self.change.old == "O":
            return self._by_image(params)
        raise PgfloError(
            errors.SINK_REFUSED,
            f"a changed row of {self.table.schema}.{self.table.name} cannot be told from others:"
            " it came without key and without old values",
            table=f"{self.table.schema}.{self.table.name}",
        )

    def value(self, params: Params, side: Side, number: int) -> sql.Composable:
        """Give the placeholder of a column's value."""
        return params.use(side, number, self.columns[number].type_oid)

    def _stored(self, params: Params, side: Side, number: int) -> sql.Composable:
        """Give a value as the column keeps it: rounded and padded as its type says."""
        stored_as = self.columns[number].stored_as
        value = self.value(params, side, number)
        # Written by format_type, which quotes what has to be quoted.
        return value if stored_as is None else sql.SQL("{}::{}").format(value, sql.SQL(stored_as))

    def names(self, numbers: Iterable[int]) -> sql.Composable:
        """List columns by their quoted names."""
        return join(self.source.columns[n] for n in numbers)


def join(names: Iterable[str]) -> sql.Composable:
    """List names, quoted."""
    return sql.SQL(", ").join(map(sql.Identifier, names))
