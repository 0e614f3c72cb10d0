"""Makes the destination's tables ready for a group's first row, an incarnation's, or a new copy's.

Upstream: the worker, which holds the lease and has read the group's record. Downstream: catalog,
truncate, progress.
Invariant: preparing is one transaction. Before it the tables and the progress row are as they were;
after it the tables hold no rows of a former copy, and the progress row stands at the new start.

Within an incarnation single tables may be copied anew, or join. They are emptied in the same way,
while nothing is applied; `copies` remembers for which snapshot that was done, so that it happens
once, and ranges of another one are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import psycopg
import structlog
from psycopg import sql

from pgflo import _core, errors
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

log = structlog.get_logger("pgflo.sinks.postgres")

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
    snapshot_lsn: int = 0
    """Consistent point of its copy."""
    takes_rows: bool = True
    """Whether copied rows go into it; if not, because of routes or since there are none, it is not
    emptied."""
    source_oid: int | None = None
    """The table's at the source, where `oid` is one that routing made up."""

    @property
    def origin(self) -> int:
        """OID at the source, by which copies are remembered: made-up ones change with the rules."""
        return self.oid if self.source_oid is None else self.source_oid

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
            reached = max(row.position for row in rows)
            _renew(conn, to, tables, found, incarnation, reached, not_empty)
            return False
        with conn.transaction():
            _empty(conn, to, tables, found, not_empty)
            progress.begin_incarnation(conn, to, incarnation, start_lsn)
            _forget(conn, to)
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
    ours = _copied_tables(conn, to)
    filled = [table for table in tables if table.copied and table.takes_rows]
    targets = {found[table.oid].oid: found[table.oid] for table in filled}
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


def _renew(
    conn: psycopg.Connection[TupleRow],
    to: Destination,
    tables: Sequence[SourceTable],
    found: dict[int, Table],
    incarnation: uuid.UUID,
    reached: tuple[int, int],
    not_empty: NotEmpty,
) -> None:
    """Empty the tables whose copy is another one than the destination was made ready for.

    `reached`: up to where changes are applied. Those of these tables go, so none may lie behind the
    point from which they count.
    """
    begun = {
        oid: _core.lsn_parse(snapshot)
        for oid, snapshot in conn.execute(
            "SELECT relation_oid, snapshot_lsn::text FROM pgflo.copies"
            " WHERE group_name = %s AND sink = %s AND incarnation = %s",
            (to.group, to.sink, incarnation),
        )
    }
    stale = [t for t in tables if t.copied and begun.get(t.origin) != t.snapshot_lsn]
    _tell_late(conn, to, [t for t in tables if t.copied and t not in stale], found)
    if not stale:
        return
    if passed := [t.label for t in stale if reached > (t.snapshot_lsn, 0)]:
        raise PgfloError(
            errors.SINK_CHAIN_GAP,
            f"{', '.join(passed)} is to be copied as of before what this sink has applied",
            hint="`pgflo replicate --restart` copies the group anew.",
        )
    kept = {found[t.oid].oid for t in tables if t not in stale}
    if shared := [t.label for t in stale if found[t.oid].oid in kept]:
        raise PgfloError(
            errors.SINK_REFUSED,
            f"{', '.join(shared)} is copied anew into a table that holds the rows of others",
            hint="`pgflo replicate --restart` copies the group anew.",
        )
    with conn.transaction():
        _empty(conn, to, stale, found, not_empty)
        progress.hold(conn, to, incarnation)
        _remember(conn, to, stale, found, incarnation)
    log.info("tables are copied anew", tables=", ".join(table.label for table in stale))


def _tell_late(
    conn: psycopg.Connection[TupleRow],
    to: Destination,
    tables: Sequence[SourceTable],
    found: dict[int, Table],
) -> None:
    """Warn of destinations that rules name since the copy began: they lack what is copied."""
    filled = [table for table in tables if table.takes_rows]
    known = _copied_tables(conn, to)
    late = [table.label for table in filled if _label(found[table.oid]) not in known]
    if late:
        log.warning(
            "routing sends rows to tables that it did not name when the copy began; they have no"
            " rows of before",
            tables=", ".join(late),
            hint="`pgflo replicate --restart` copies the group anew.",
        )


def _copied_tables(conn: psycopg.Connection[TupleRow], to: Destination) -> set[str]:
    """Give the destinations that hold copied rows of ours."""
    rows = conn.execute(
        "SELECT destination FROM pgflo.copied_tables WHERE group_name = %s AND sink = %s",
        (to.group, to.sink),
    )
    return {row[0] for row in rows}


def _remember(
    conn: psycopg.Connection[TupleRow],
    to: Destination,
    tables: Sequence[SourceTable],
    found: dict[int, Table],
    incarnation: uuid.UUID,
) -> None:
    """Note which tables hold rows of ours, and of which copy; ranges of former copies go."""
    copied = [table for table in tables if table.copied]
    ids = {"group": to.group, "sink": to.sink, "incarnation": incarnation}
    snapshots = {table.origin: _core.lsn_format(table.snapshot_lsn) for table in copied}
    oids = {**ids, "oids": list(snapshots)}
    conn.execute(
        "INSERT INTO pgflo.copied_tables (group_name, sink, destination, incarnation)"
        " SELECT %(group)s, %(sink)s, unnest(%(names)s::text[]), %(incarnation)s"
        " ON CONFLICT (group_name, sink, destination) DO UPDATE"
        " SET incarnation = excluded.incarnation",
        {
            **ids,
            "names": sorted({_label(found[table.oid]) for table in copied if table.takes_rows}),
        },
    )
    conn.execute(
        "DELETE FROM pgflo.copied_ranges WHERE group_name = %(group)s AND sink = %(sink)s"
        " AND incarnation = %(incarnation)s AND relation_oid = ANY (%(oids)s)",
        oids,
    )
    conn.execute(
        "INSERT INTO pgflo.copies (group_name, sink, relation_oid, incarnation, snapshot_lsn)"
        " SELECT %(group)s, %(sink)s, oid, %(incarnation)s, snapshot"
        " FROM unnest(%(oids)s::bigint[], %(snapshots)s::pg_lsn[]) AS c(oid, snapshot)"
        " ON CONFLICT (group_name, sink, relation_oid) DO UPDATE"
        " SET incarnation = excluded.incarnation, snapshot_lsn = excluded.snapshot_lsn",
        {**oids, "snapshots": list(snapshots.values())},
    )


def _forget(conn: psycopg.Connection[TupleRow], to: Destination) -> None:
    """Forget what former incarnations copied: it is gone from the tables."""
    for statement in (
        "DELETE FROM pgflo.copied_tables WHERE group_name = %s AND sink = %s",
        "DELETE FROM pgflo.copies WHERE group_name = %s AND sink = %s",
    ):
        conn.execute(statement, (to.group, to.sink))


def _has_rows(conn: psycopg.Connection[TupleRow], table: Table) -> bool:
    row = conn.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table.only)).fetchone()
    return row is not None and bool(row[0])


def _label(table: Table) -> str:
    """Name a table in the ledger: quoted as SQL quotes it, so that no two tables share a name."""
    return table.identifier.as_string()
