"""The SQL of one shape of change: what runs, with which values, and what runs if no row is hit.

Upstream: the replay meets a shape (operation, old tuple, columns left out) for the first time.
Downstream: the texts are prepared once and run for every change of that shape.
Invariants: every statement of normal mode hits exactly one row or is wrong; names go through
psycopg.sql, values through parameters whose types are the destination columns' own.

Normal mode takes the source's word: an INSERT finds no such key, an UPDATE or DELETE finds its
row. Careful mode runs after that turned out wrong: an INSERT whose key exists updates that row, an
UPDATE without a row inserts it (if no value is missing), a DELETE without a row passes; each is
counted.

Three odd columns and tables:
- GENERATED ALWAYS identity: INSERT overrides it; UPDATE cannot set it, so that a change that may
  set it comes in two halves, in one statement: UPDATE of the row if it keeps its identity, else
  DELETE … RETURNING the columns that were not sent, and INSERT.
- A deferrable unique key is not enforced in replica role: INSERT asks for the key itself. Until its
  commit the source may have two rows of one key; the old row's image tells which one is meant.
- No key at all (REPLICA IDENTITY FULL): the first row with the same image (`*=`: bytes, not
  values).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from psycopg import sql

from pgflo import errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterable

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


@dataclass(frozen=True, slots=True)
class Text:
    """A statement to prepare: `$n` is `params[n - 1]`, of type `types[n - 1]`."""

    query: sql.Composable
    params: tuple[tuple[Side, int], ...]
    types: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a shape runs. No primary: the shape changes nothing at the destination."""

    primary: Text | None
    fallback: Text | None = None
    conflict: str = ""


def plan(change: Change, source: Source, table: Table) -> Plan:
    """Choose the statements of a shape.

    Raises `PgfloError` SINK_COLUMN_MISSING (the destination lacks a column) or SINK_REFUSED (an
    UPDATE or DELETE of a table whose rows nothing tells apart).
    """
    return _Builder(change, source, table).plan()


@dataclass(slots=True)
class _Params:
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


class _Builder:
    """Builds the statements of one change: the numbers below are source column numbers."""

    def __init__(self, change: Change, source: Source, table: Table) -> None:
        missing = [name for name in source.columns if name not in table.columns]
        if missing:
            raise PgfloError(
                errors.SINK_COLUMN_MISSING,
                f"the destination table {table.schema}.{table.name} lacks"
                f" column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
                table=f"{table.schema}.{table.name}",
            )
        self._change = change
        self._source = source
        self._table = table
        self._number = {name: number for number, name in enumerate(source.columns)}
        self._columns = [table.columns[name] for name in source.columns]
        self._written = [n for n, column in enumerate(self._columns) if not column.generated]
        self._constraint = self._find_constraint()
        self._key = self._find_key()

    def plan(self) -> Plan:
        match self._change.op:
            case "I":
                return self._plan_insert()
            case "U":
                return self._plan_update()
            case "D":
                conflict = "delete_missing" if self._change.careful else ""
                return Plan(self._delete(), conflict=conflict)
            case other:
                message = f"unknown operation {other!r}"
                raise ValueError(message)

    # --- what tells a row

    def _find_constraint(self) -> UniqueKey | None:
        """Find the destination's unique key that the source's rows can violate by identity."""
        if self._source.full or not self._source.key:
            key = self._table.row_key()
            return key if key and all(name in self._number for name in key.columns) else None
        return self._table.key_over([self._source.columns[n] for n in self._source.key])

    def _find_key(self) -> tuple[int, ...]:
        """Numbers of the columns by which rows are found; none: by their image."""
        if self._constraint is not None:
            return tuple(self._number[name] for name in self._constraint.columns)
        return () if self._source.full else self._source.key

    def _by_key(self, params: _Params, side: Side) -> sql.Composable:
        operators = dict(
            zip(self._constraint.columns, self._constraint.operators, strict=True)
            if self._constraint
            else ()
        )
        return sql.SQL(" AND ").join(
            sql.SQL("{} OPERATOR({}.{}) {}").format(
                sql.Identifier(self._source.columns[n]),
                *_operator(operators.get(self._source.columns[n], ("pg_catalog", "="))),
                self._value(params, side, n),
            )
            for n in self._key
        )

    def _is_deferrable(self) -> bool:
        return self._constraint is not None and not self._constraint.immediate

    def _by_image(self, params: _Params) -> sql.Composable:
        return sql.SQL(
            "(tableoid, ctid) = (SELECT tableoid, ctid FROM {} WHERE {} LIMIT 1)"
        ).format(self._table.only, self._has_image(params))

    def _by_key_and_image(self, params: _Params) -> sql.Composable:
        """Find the row of the old key that looks like the old row, else one from before.

        A row that was written in this transaction and looks otherwise is the new owner of the key.
        """
        return sql.SQL(
            "(tableoid, ctid) = (SELECT tableoid, ctid FROM {table} WHERE {key} AND ({image} OR"
            " pg_catalog.age(xmin) > pg_catalog.age(pg_catalog.pg_current_xact_id()::xid))"
            " ORDER BY {image} DESC LIMIT 1)"
        ).format(
            table=self._table.only,
            key=self._by_key(params, "old"),
            image=self._has_image(params),
        )

    def _has_image(self, params: _Params) -> sql.Composable:
        """Compare bytes: types without equality have them too, and values are as they are stored."""
        return sql.SQL("ROW({})::record OPERATOR(pg_catalog.*=) ROW({})::record").format(
            self._names(self._written),
            sql.SQL(", ").join(self._stored(params, "old", n) for n in self._written),
        )

    def _row(self, params: _Params) -> sql.Composable:
        """Give the condition that finds the row an UPDATE or DELETE means."""
        if self._key and self._change.old == "O" and self._is_deferrable():
            return self._by_key_and_image(params)
        if self._key:
            return self._by_key(params, "old" if self._change.old else "new")
        if self._change.old == "O":
            return self._by_image(params)
        raise PgfloError(
            errors.SINK_REFUSED,
            f"a changed row of {self._table.schema}.{self._table.name} cannot be told from others:"
            " it came without key and without old values",
            table=f"{self._table.schema}.{self._table.name}",
        )

    # --- shapes

    def _plan_insert(self) -> Plan:
        careful = self._change.careful and self._constraint is not None
        primary = self._insert("new", guarded=careful)
        if not careful:
            return Plan(primary)
        return Plan(primary, self._overwrite(), "insert_exists")

    def _plan_update(self) -> Plan:
        unsent = self._change.unchanged
        settable = [
            n for n in self._written if n not in unsent and (self._change.old or n not in self._key)
        ]
        if not settable and not self._change.careful:
            return Plan(None)
        primary = self._set(settable, self._change.old == "")
        if not self._change.careful:
            return Plan(primary)
        return Plan(primary, self._update_anyway(), "update_missing")

    def _update_anyway(self) -> Text | None:
        """Make up for a missing old row; a row that has the new key already takes its place."""
        unsent, has_moved = self._change.unchanged, self._change.old != "" and self._constraint
        if not unsent or self._change.old == "O":
            side: Side = "new_or_old" if unsent else "new"
            return self._upsert(side) if has_moved else self._insert(side, guarded=False)
        # A cascade of the destination's own may have moved it: then only the rest is missing.
        return self._set(self._free(), by_new_key=True) if has_moved else None

    def _overwrite(self) -> Text:
        """Make the row that has this key equal to the inserted one."""
        return self._set(self._free(), by_new_key=True)

    def _free(self) -> list[int]:
        """Columns that were sent and do not belong to the key."""
        unsent = self._change.unchanged
        return [n for n in self._written if n not in self._key and n not in unsent]

    def _set(self, columns: list[int], by_new_key: bool) -> Text:
        """Write `columns` of one row, or replace it where an UPDATE cannot do that."""
        identity = [n for n in columns if self._columns[n].identity_always]
        if identity:
            return self._replace(columns, identity[0], by_new_key=by_new_key)
        params = _Params()
        return params.text(self._write(params, columns, "new", by_new_key=by_new_key))

    def _write(
        self, params: _Params, columns: list[int], side: Side, *, by_new_key: bool
    ) -> sql.Composable:
        """Update one row; without anything to set, only look whether it is there."""
        by_new_key = by_new_key and bool(self._key)
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(
                sql.Identifier(self._source.columns[n]), self._value(params, side, n)
            )
            for n in columns
        )
        where = self._by_key(params, "new") if by_new_key else self._row(params)
        text = "UPDATE {} SET {} WHERE {}" if columns else "SELECT FROM {}{} WHERE {}"
        return sql.SQL(text).format(self._table.only, assignments, where)

    def _upsert(self, side: Side) -> Text:
        """Overwrite the row that has the new key, or insert one."""
        params = _Params()
        columns = [n for n in self._written if n not in self._key]
        settable = [n for n in columns if not self._columns[n].identity_always]
        written = self._write(params, settable, side, by_new_key=True)
        return params.text(
            sql.SQL(
                "WITH there AS ({written}{returning}), added AS (INSERT INTO {target} ({names})"
                " OVERRIDING SYSTEM VALUE SELECT {values} WHERE NOT EXISTS (SELECT FROM there)"
                " RETURNING 1) SELECT FROM there UNION ALL SELECT FROM added"
            ).format(
                written=written,
                returning=sql.SQL(" RETURNING 1" if settable else ""),
                target=self._table.identifier,
                names=self._names(self._written),
                values=sql.SQL(", ").join(self._value(params, side, n) for n in self._written),
            )
        )

    def _replace(self, columns: list[int], identity: int, *, by_new_key: bool) -> Text:
        """Update the row if it keeps its identity, else delete it and insert it anew.

        What was not sent is kept. Deleting it in any case would be seen by what refers to it, where
        foreign keys act.
        """
        params = _Params()
        by_new_key = by_new_key and bool(self._key)
        where = self._by_key(params, "new") if by_new_key else self._row(params)
        settable = [n for n in columns if n != identity]
        written = self._write(params, settable, "new", by_new_key=by_new_key)
        kept = [
            name
            for name, column in self._table.columns.items()
            if not column.generated
            and (name not in self._number or self._number[name] in self._change.unchanged)
        ]
        sent = [n for n in self._written if n not in self._change.unchanged]
        values = [self._value(params, "new", n) for n in sent]
        values += [sql.SQL("gone.{}").format(sql.Identifier(name)) for name in kept]
        names = [self._source.columns[n] for n in sent] + kept
        return params.text(
            sql.SQL(
                "WITH there AS ({written} AND {identity} = {number}{returning}),"
                " gone AS (DELETE FROM {table} WHERE {where} AND {identity} <> {number}"
                " RETURNING {returned}), added AS (INSERT INTO {target} ({names})"
                " OVERRIDING SYSTEM VALUE SELECT {values} FROM gone RETURNING 1)"
                " SELECT FROM there UNION ALL SELECT FROM added"
            ).format(
                written=written,
                identity=sql.Identifier(self._source.columns[identity]),
                number=self._value(params, "new", identity),
                returning=sql.SQL(" RETURNING 1" if settable else ""),
                table=self._table.only,
                where=where,
                returned=_join(kept) if kept else sql.SQL("1"),
                target=self._table.identifier,
                names=_join(names),
                values=sql.SQL(", ").join(values),
            )
        )

    def _insert(self, side: Side, *, guarded: bool) -> Text:
        """Insert a row; `guarded`: do nothing if its key is there."""
        params = _Params()
        deferrable = self._is_deferrable()
        values = sql.SQL(", ").join(self._value(params, side, n) for n in self._written)
        if not self._written:
            source: sql.Composable = sql.SQL("DEFAULT VALUES")
        elif deferrable:
            source = sql.SQL("SELECT {} WHERE NOT EXISTS (SELECT FROM {} WHERE {})").format(
                values, self._table.identifier, self._by_key(params, side)
            )
        else:
            source = sql.SQL("VALUES ({})").format(values)
        overriding = any(self._columns[n].identity_always for n in self._written)
        query = sql.SQL("INSERT INTO {}{}{}{}{}").format(
            self._table.identifier,
            sql.SQL(" ({})").format(self._names(self._written)) if self._written else sql.SQL(""),
            sql.SQL(" OVERRIDING SYSTEM VALUE ") if overriding else sql.SQL(" "),
            source,
            sql.SQL(" ON CONFLICT ({}) DO NOTHING").format(self._names(self._key))
            if guarded and not deferrable
            else sql.SQL(""),
        )
        return params.text(query)

    def _delete(self) -> Text:
        params = _Params()
        where = self._row(params)
        return params.text(sql.SQL("DELETE FROM {} WHERE {}").format(self._table.only, where))

    # --- pieces

    def _value(self, params: _Params, side: Side, number: int) -> sql.Composable:
        return params.use(side, number, self._columns[number].type_oid)

    def _stored(self, params: _Params, side: Side, number: int) -> sql.Composable:
        """Give a value as the column keeps it: rounded and padded as its type says."""
        stored_as = self._columns[number].stored_as
        value = self._value(params, side, number)
        # Written by format_type, which quotes what has to be quoted.
        return value if stored_as is None else sql.SQL("{}::{}").format(value, sql.SQL(stored_as))

    def _names(self, numbers: Iterable[int]) -> sql.Composable:
        return _join(self._source.columns[n] for n in numbers)


def _join(names: Iterable[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _operator(name: tuple[str, str]) -> tuple[sql.Composable, sql.Composable]:
    schema, operator = name
    # Operator names cannot be quoted; this one was read from pg_operator.
    return sql.Identifier(schema), sql.SQL(operator)
