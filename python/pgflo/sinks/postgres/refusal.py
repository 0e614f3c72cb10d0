"""A change that the destination refused, told so that somebody can mend it.

Upstream: `apply`, when careful replay failed. Downstream: the worker's log and its last word.
Invariant: names, positions and SQLSTATEs only. The server's own text quotes row values and is never
read; what it would have said of columns comes from its name fields and from both tables' catalogs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.sinks.postgres.connection import kind_of

if TYPE_CHECKING:
    from pgflo.sinks.postgres.catalog import Table

NOT_NULL = "23502"
UNREADABLE_VALUE = "22"
"""Class of SQLSTATEs: a value that its column's type cannot hold."""


FIRST_OWN_OID = 16384
"""Types from here on were made in one database; their OIDs mean nothing in another."""


def label(relation: _core.Relation) -> str:
    """Name a source table, for people."""
    return f"{relation.schema}.{relation.name}"


def position(step: _core.Step) -> str:
    """Tell where a change stands."""
    return f"{_core.lsn_format(step.commit_lsn)}:{step.ordinal}"


def refusal(step: _core.Step, table: Table | None, *, filtered: bool) -> PgfloError:
    """Make the error of a failed step. `table` is where the change was to go, if that is known.

    `filtered`: rules keep rows out of it.
    """
    name = label(step.relation) if step.relation else "an unknown table"
    where = position(step)
    context: dict[str, Any] = {"table": name, "position": where}
    if not step.sqlstate:
        why = (
            "it finds no row, and cannot be made an INSERT: the source did not send every value"
            if step.matched_rows == 0
            else f"it hits {step.matched_rows} rows instead of one"
        )
        hint = _knowing(name) if filtered and step.matched_rows == 0 else None
        return PgfloError(
            errors.SINK_REFUSED, f"change on {name} at {where}: {why}", hint=hint, **context
        )
    why = f"SQLSTATE {step.sqlstate} ({_condition(step.sqlstate)})"
    hint = None
    if step.constraint:
        context["constraint"] = step.constraint
        why += f", constraint {step.constraint}"
    if step.column:
        context["column"] = step.column
        why += f", column {step.column}"
    if step.sqlstate == NOT_NULL and step.column:
        why, hint = why + _whose_null(step), _mending(name, step.column, "DROP NOT NULL")
    elif step.sqlstate.startswith(UNREADABLE_VALUE) and (others := _other_types(step, table)):
        why += f"; of another type than at the source: {', '.join(others)}"
        hint = _mending(name, next(iter(others)), "TYPE …")
    detail = f"change on {name} at {where}: {why}"
    return PgfloError(kind_of(step.sqlstate), detail, hint=hint, **context)


def _whose_null(step: _core.Step) -> str:
    sent = step.relation is not None and any(
        column.name == step.column for column in step.relation.columns
    )
    return " (NULL at the source)" if sent else " (which the source does not have)"


def _other_types(step: _core.Step, table: Table | None) -> list[str]:
    """Columns whose built-in type is another one at the destination."""
    if step.relation is None or table is None:
        return []
    here = table.columns
    return [
        column.name
        for column in step.relation.columns
        if column.name in here
        and here[column.name].type_oid != column.type_oid
        and max(here[column.name].type_oid, column.type_oid) < FIRST_OWN_OID
    ]


def _knowing(name: str) -> str:
    return (
        "Whether it passes the filter depends on that value. Insert the row at the destination if"
        f" it does, and say `ALTER TABLE {name} REPLICA IDENTITY FULL` at the source, so that"
        " updates tell; then start `pgflo worker` again."
    )


def _mending(name: str, column: str, action: str) -> str:
    return (
        f"Say `ALTER TABLE {name} ALTER COLUMN {column} {action}` at the destination, then start"
        " `pgflo worker` again: it goes on with this change."
    )


def _condition(sqlstate: str) -> str:
    try:
        return psycopg.errors.lookup(sqlstate).__name__
    except KeyError:
        return "unknown condition"
