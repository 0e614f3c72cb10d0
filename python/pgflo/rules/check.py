"""Rules and routing against the destination's catalog.

Upstream: the worker, before it prepares anything; `pgflo rules lint`. Downstream: the destination's
tables.
Invariant: all mistakes are told at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo.errors import CONFIG_RULES, PgfloError
from pgflo.rules.destinations import destined
from pgflo.sinks.postgres.prepare import find_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import psycopg
    from psycopg.rows import TupleRow

    from pgflo.broker.records import TableRecord
    from pgflo.rules.bind import Bound
    from pgflo.rules.spec import Rule
    from pgflo.sinks.postgres.catalog import Table
    from pgflo.sinks.postgres.prepare import SourceTable

STRINGS = "S"
"""pg_type.typcategory of types that take any text."""
USER_TYPES = "U"
"""Category of types of which nothing is known."""


def check(
    conn: psycopg.Connection[TupleRow],
    bound: Bound,
    records: Sequence[TableRecord],
    tables: Sequence[SourceTable],
) -> None:
    """Raise `PgfloError` CONFIG_RULES with all that does not fit the destination.

    Also SINK_TABLE_MISSING and SINK_COLUMN_MISSING, as `prepare` does.
    """
    found = find_tables(conn, tables)
    mistakes = [*_keys(bound, records, found), *_types(conn, bound, records, found)]
    if mistakes:
        raise PgfloError(CONFIG_RULES, "\n".join(dict.fromkeys(mistakes)))


def _keys(bound: Bound, records: Iterable[TableRecord], found: dict[int, Table]) -> Iterator[str]:
    """Find transformed columns by which rows are told apart, where the source sends whole rows."""
    for record in records:
        if record.identity != "f":
            continue  # the core knows the identity, and has judged it
        for to in destined(record, bound):
            key = found[to.oid].row_key()
            for source, here in to.columns:
                if key is None or here not in key.columns or source not in to.transformed:
                    continue
                for rule in _transforming(bound.spec.rules, record, source):
                    yield (
                        f'{rule.label}: "{source}" becomes a key of {to.label}: rows would be told'
                        " apart by what the rule makes of it; say `allow_key: true` if so wanted"
                    )


def _transforming(rules: Iterable[Rule], record: TableRecord, column: str) -> Iterator[Rule]:
    names = {(record.schema, record.name), record.root, None}
    for rule in rules:
        is_transform = rule.kind in ("mask", "regex") and not rule.allow_key
        if is_transform and rule.column == column and rule.table in names:
            yield rule


def _types(
    conn: psycopg.Connection[TupleRow],
    bound: Bound,
    records: Iterable[TableRecord],
    found: dict[int, Table],
) -> Iterator[str]:
    """Find columns that a route sends to a column of another kind."""
    rows = conn.execute("SELECT oid::bigint, typcategory::text FROM pg_catalog.pg_type")
    categories: dict[int, str] = dict(rows.fetchall())
    for record in records:
        columns = {column.name: column for column in record.columns}
        names = {(record.schema, record.name), record.root}
        labels = [route.label for route in bound.spec.routes if route.source in names]
        for to in destined(record, bound) if labels else ():
            for source, here in to.columns:
                ours, theirs = columns[source], found[to.oid].columns[here]
                category = categories.get(theirs.type_oid, USER_TYPES)
                is_same = not ours.category or ours.category == category
                if is_same or category in (STRINGS, USER_TYPES):
                    continue
                yield (
                    f'{labels[0]}: "{source}" of {record.schema}.{record.name} is {ours.type_name},'
                    f' "{here}" of {to.label} is {theirs.type_name}'
                )
