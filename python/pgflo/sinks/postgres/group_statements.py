"""The SQL of a group: one statement for many rows of a table.

Upstream: `groups` has rows as arrays, or as COPY rows. Downstream: prepared once per relation,
kind and set of columns.
Invariants: a value goes through the input function of its column's type, as in a statement for one
row; names go through psycopg.sql; a row is found by the operators of the key's own index.

Arrays, not a table to stage rows in: they need no right to create anything, leave no dead rows in
the catalogs, and cost the same (5 µs of the server's time for an UPDATE's row, either way). A type
that has no arrays of its own (an array), or whose arrays come apart in FROM (a composite), comes as
text and is cast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from pgflo.sinks.postgres.row_search import by_operator

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgflo.sinks.postgres.catalog import Column, Table, UniqueKey

TEXT_ARRAY_OID = 1009


def insert(table: Table, columns: Sequence[str]) -> sql.Composed:
    """Take rows in COPY's text format."""
    return sql.SQL("COPY {} ({}) FROM STDIN").format(table.identifier, _names(columns))


def delete(table: Table, key: UniqueKey) -> tuple[sql.Composable, tuple[int, ...]]:
    """Delete the rows of many keys; give the types of its parameters too: an array a key column."""
    columns = [table.columns[name] for name in key.columns]
    query = sql.SQL("DELETE FROM {} AS t USING {} WHERE {}").format(
        table.only, _rows(columns), _is_row(key, columns)
    )
    return query, _types(columns)


def update(
    table: Table, key: UniqueKey, names: Sequence[str]
) -> tuple[sql.Composable, tuple[int, ...]]:
    """Set the named columns of many rows.

    Parameters: an array for each key column, by which the rows are found, then one for each name.
    """
    set_columns = [table.columns[name] for name in names]
    columns = [table.columns[name] for name in key.columns] + set_columns
    first = len(key.columns)
    query = sql.SQL("UPDATE {} AS t SET {} FROM {} WHERE {}").format(
        table.only,
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(column.name), _value(column, first + number))
            for number, column in enumerate(set_columns)
        ),
        _rows(columns),
        _is_row(key, columns),
    )
    return query, _types(columns)


def put(
    table: Table, key: UniqueKey, names: Sequence[str]
) -> tuple[sql.Composable, tuple[int, ...]]:
    """Insert rows, or update those that are there. Parameters: an array for each name."""
    columns = [table.columns[name] for name in names]
    settable = [name for name in names if name not in key.columns] or [key.columns[0]]
    query = sql.SQL(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}"
        " ON CONFLICT ({}) DO UPDATE SET {}"
    ).format(
        table.identifier,
        _names(names),
        sql.SQL(", ").join(_value(column, number) for number, column in enumerate(columns)),
        _rows(columns),
        _names(key.columns),
        sql.SQL(", ").join(
            sql.SQL("{} = excluded.{}").format(sql.Identifier(name), sql.Identifier(name))
            for name in settable
        ),
    )
    return query, _types(columns)


def _rows(columns: Sequence[Column]) -> sql.Composable:
    """Give the parameters as a table `s` with a column for each."""
    numbers = range(len(columns))
    return sql.SQL("ROWS FROM ({}) AS s({})").format(
        sql.SQL(", ").join(sql.SQL(f"pg_catalog.unnest(${number + 1:d})") for number in numbers),
        sql.SQL(", ").join(sql.SQL(f"c{number:d}") for number in numbers),
    )


def _is_row(key: UniqueKey, columns: Sequence[Column]) -> sql.Composable:
    return sql.SQL(" AND ").join(
        by_operator(
            sql.SQL("t.{}").format(sql.Identifier(name)), operator, _value(columns[number], number)
        )
        for number, (name, operator) in enumerate(zip(key.columns, key.operators, strict=True))
    )


def _value(column: Column, number: int) -> sql.Composable:
    value = sql.SQL(f"s.c{number:d}")
    if column.array_oid:
        return value
    # The type's name comes from format_type, which quotes it.
    return sql.SQL("CAST({} AS {})").format(value, sql.SQL(column.type_name))


def _types(columns: Iterable[Column]) -> tuple[int, ...]:
    return tuple(column.array_oid or TEXT_ARRAY_OID for column in columns)


def _names(columns: Iterable[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
