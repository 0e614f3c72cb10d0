"""Makes the destination's tables ready for a group's first row, or for an incarnation's.

Upstream: the worker, which holds the lease and has read the group's record. Downstream: catalog,
truncate, progress.
Invariant: preparing is one transaction. Before it the tables and the progress row are as they were;
after it the tables hold no rows of a former copy, and the progress row stands at the new start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import sql

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.catalog import Table, find_table, is_cut_otherwise
from pgflo.sinks.postgres.connection import failure
from pgflo.sinks.postgres.truncate import truncate

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from psycopg.rows import TupleRow

    from pgflo.sinks.postgres.connection import Destination

NotEmpty = Literal["error", "truncate", "append"]


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table of the group as the destination must be able to take it."""

    oid: int
    """By which changes name it."""
    schema: str
    name: str
    root: tuple[str, str] | None
    """The partition root, through which rows go where the destination lacks the leaf."""
    columns: tuple[str, ...]
    copied: bool
    """Whether its rows are copied first, so that it must be empty."""
    bounds: str = ""
    """Which rows of its root it holds, as an SQL condition; empty if that is not known."""

    @property
    def label(self) -> str:
        """schema.table, for people."""
        return f"{self.schema}.{self.name}"


def prepare(
    conn: psycopg.Connection[TupleRow],
    to: Destination,
    tables: Sequence[SourceTable],
    incarnation: uuid.UUID,
    start_lsn: int,
    not_empty: NotEmpty,
    *,
    again: bool,
) -> bool:
    """Take the sink over and begin `incarnation` if it is not the one that stands there.

    `again`: this run has taken it over before, so that it must still be ours. Returns whether the
    incarnation was begun (False: the sink goes on where it was). Raises `PgfloError`:
    SINK_TABLE_MISSING and SINK_COLUMN_MISSING name all that is missing, SINK_NOT_EMPTY all tables
    with rows; GROUP_SUPERSEDED; or what the server said.
    """
    try:
        progress.create_schema(conn)
        rows = progress.take_all(conn, to) if again else progress.take_over(conn, to)
        to.end_former_runs(conn)
        found = find_tables(conn, tables)
        if rows and rows[0].incarnation == incarnation:
            return False
        with conn.transaction():
            _empty(conn, to, tables, found, not_empty)
            progress.begin_incarnation(conn, to, incarnation, start_lsn)
            _remember(conn, to, tables, found, incarnation)
    except psycopg.Error as error:
        raise failure(error, "cannot prepare the destination") from error
    return True


def find_tables(
    conn: psycopg.Connection[TupleRow], tables: Sequence[SourceTable]
) -> dict[int, Table]:
    """Find every table's destination by source oid; raise with the list of what is missing."""
    found: dict[int, Table] = {}
    missing: list[str] = []
    for table in tables:
        destination = _find(conn, table)
        if destination is None:
            missing.append(table.label)
        else:
            found[table.oid] = destination
    if missing:
        raise PgfloError(
            errors.SINK_TABLE_MISSING, f"the destination has no table {', '.join(missing)}"
        )
    lacking = [
        f"{table.label}.{column}"
        for table in tables
        for column in table.columns
        if column not in found[table.oid].columns
    ]
    if lacking:
        raise PgfloError(
            errors.SINK_COLUMN_MISSING, f"the destination has no column {', '.join(lacking)}"
        )
    return found


def tables_through_root(
    conn: psycopg.Connection[TupleRow], tables: Sequence[SourceTable]
) -> frozenset[int]:
    """Give the source oids of partitions whose rows are written to their partition root."""
    leaves = [table for table in tables if table.root is not None]
    found = find_tables(conn, leaves)
    return frozenset(
        leaf.oid for leaf in leaves if (found[leaf.oid].schema, found[leaf.oid].name) == leaf.root
    )


def _find(conn: psycopg.Connection[TupleRow], table: SourceTable) -> Table | None:
    root = table.root
    found = find_table(conn, table.schema, table.name, root)
    if found is None or root is None or (found.schema, found.name) == root or not table.bounds:
        return found
    if is_cut_otherwise(conn, found, root, table.bounds):
        return find_table(conn, table.schema, table.name, root, through_root=True)
    return found


def _empty(
    conn: psycopg.Connection[TupleRow],
    to: Destination,
    tables: Sequence[SourceTable],
    found: dict[int, Table],
    not_empty: NotEmpty,
) -> None:
    """Empty the tables that hold rows of a former incarnation; judge the others by `not_empty`."""
    ours = {
        row[0]
        for row in conn.execute(
            "SELECT destination FROM pgflo.copied_tables WHERE group_name = %s AND sink = %s",
            (to.group, to.sink),
        )
    }
    targets = {found[table.oid].oid: found[table.oid] for table in tables if table.copied}
    foreign = [
        table for table in targets.values() if _label(table) not in ours and _has_rows(conn, table)
    ]
    if foreign and not_empty == "error":
        raise PgfloError(
            errors.SINK_NOT_EMPTY,
            f"the destination already has rows in {', '.join(map(_label, foreign))}",
        )
    doomed = [table for table in targets.values() if _label(table) in ours]
    if not_empty == "truncate":
        doomed += foreign
    truncate(conn, doomed, restart_identity=False)


def _remember(
    conn: psycopg.Connection[TupleRow],
    to: Destination,
    tables: Sequence[SourceTable],
    found: dict[int, Table],
    incarnation: uuid.UUID,
) -> None:
    conn.execute(
        "DELETE FROM pgflo.copied_tables WHERE group_name = %s AND sink = %s", (to.group, to.sink)
    )
    destinations = {_label(found[table.oid]) for table in tables if table.copied}
    conn.execute(
        "INSERT INTO pgflo.copied_tables (group_name, sink, destination, incarnation)"
        " SELECT %s, %s, unnest(%s::text[]), %s",
        (to.group, to.sink, sorted(destinations), incarnation),
    )


def _has_rows(conn: psycopg.Connection[TupleRow], table: Table) -> bool:
    row = conn.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table.only)).fetchone()
    return row is not None and bool(row[0])


def _label(table: Table) -> str:
    """Name a table in the ledger: quoted as SQL quotes it, so that no two tables share a name."""
    return table.identifier.as_string()
