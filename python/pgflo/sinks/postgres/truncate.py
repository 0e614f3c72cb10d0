"""TRUNCATE, as the source did it and as far as the destination allows.

Upstream: the applier meets a TRUNCATE message; preparation empties tables of a former incarnation.
Downstream: the destination's tables.
Invariant: exactly the named tables are emptied. CASCADE is not passed on: the message already lists
what it reached at the source, and the destination's own tables are nobody's to wipe.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from pgflo.sinks.postgres.catalog import is_referenced_from_outside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.rows import TupleRow

    from pgflo.sinks.postgres.catalog import Table


def truncate(
    conn: psycopg.Connection[TupleRow], tables: Sequence[Table], *, restart_identity: bool
) -> None:
    """Empty all `tables` in the running transaction.

    In one statement, so that foreign keys among them do not matter. If a table outside refers to
    one of them, PostgreSQL refuses TRUNCATE even in replica role; where foreign keys act, it does
    so while checks of these tables are deferred: then by DELETE (which restarts nothing).
    """
    distinct = list({table.oid: table for table in tables}.values())
    if not distinct:
        return
    if not is_referenced_from_outside(conn, [table.oid for table in distinct]):
        statement = sql.SQL("TRUNCATE {}{}").format(
            sql.SQL(", ").join(table.only for table in distinct),
            sql.SQL(" RESTART IDENTITY" if restart_identity else ""),
        )
        with contextlib.suppress(psycopg.errors.ObjectInUse), conn.transaction():
            conn.execute(statement)
            return
    deletes = (
        sql.SQL("d{} AS (DELETE FROM {})").format(sql.SQL(f"{number:d}"), table.only)
        for number, table in enumerate(distinct)
    )
    conn.execute(sql.SQL("WITH {} SELECT").format(sql.SQL(", ").join(deletes)))
