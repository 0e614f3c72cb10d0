"""Which tables' changes are applied as net effects, and under which key.

Upstream: `groups` meets a relation for the first time. Downstream: the native `NetEffect`, which is
told by a `Route`.
Invariant: a table is collected only if a statement for many rows does to it what statements for
each row do. What might tell the difference (triggers, rules, a key that is not enforced) makes it
slow: replay takes it, change by change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo import _core
from pgflo.sinks.postgres.row_search import row_constraint, source_of

if TYPE_CHECKING:
    from pgflo.sinks.postgres.catalog import Table

WIDEST_TABLE = 800
"""Columns. A statement names each of them up to twice, and PostgreSQL takes 1,664 expressions."""


def slow_route(relation: _core.Relation) -> _core.Route:
    """Leave a relation to replay. Its own OID stands for the table that was not found."""
    delimiters = [0] * len(relation.columns)
    return _core.Route(relation.oid, None, [], delimiters, updates=False, slow=True)


def route(relation: _core.Relation, table: Table) -> _core.Route:
    """Choose the route of a relation to a destination table."""
    names = [column.name for column in relation.columns]
    columns = [table.columns.get(name) for name in names]
    written = [n for n, column in enumerate(columns) if column and not column.generated]
    constraint = row_constraint(source_of(relation), table)
    is_slow = (
        table.acts_on_rows
        or not written
        or len(names) > WIDEST_TABLE
        or any(column is None for column in columns)
        or (constraint is not None and not constraint.immediate)
    )
    key = None if constraint is None else [names.index(name) for name in constraint.columns]
    settable = set(written) - set(key or ())
    return _core.Route(
        table.oid,
        key,
        written,
        [column.delimiter if column else 0 for column in columns],
        updates=not any(
            column and column.identity_always for column in map(columns.__getitem__, settable)
        ),
        slow=is_slow,
    )
