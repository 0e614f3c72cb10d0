"""The group's tables as the sink needs to know them.

Upstream: table records of the group. Downstream: preparation, copy lanes, placement on shards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo.broker.records import TableState
from pgflo.rules.destinations import destined
from pgflo.sinks.postgres.assignment import KeyColumn
from pgflo.sinks.postgres.placement import SourceShape
from pgflo.sinks.postgres.prepare import SourceTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgflo.broker.records import TableRecord
    from pgflo.rules.bind import Bound
    from pgflo.worker.group_view import View

COPYING_MODES = ("copy", "copy-and-stream")


def is_copied(view: View) -> bool:
    """Whether the group's rows are copied before changes are applied."""
    return view.group.mode in COPYING_MODES


def is_described(view: View) -> bool:
    """Whether the record tells everything that preparing the destination needs."""
    if len(view.tables) < len(view.group.tables):
        return False
    return not is_copied(view) or all(
        table.snapshot_lsn or table.state is TableState.READY for table in view.tables.values()
    )


def basis(view: View) -> tuple[str, int, dict[int, int]]:
    """Tell what the destination is made ready for: incarnation, layout, each table's snapshot."""
    snapshots = {oid: table.snapshot_lsn for oid, table in view.tables.items()}
    return view.group.incarnation, view.group.layout, snapshots


def sink_tables(
    tables: Iterable[TableRecord], bound: Bound | None, *, copied: bool
) -> list[SourceTable]:
    """Describe to the sink what it must be able to take."""
    return [
        SourceTable(
            oid=to.oid,
            schema=to.schema,
            name=to.name,
            root=to.root,
            columns=tuple(here for _, here in to.columns),
            copied=copied,
            bounds=table.bounds if to.root is not None else "",
            snapshot_lsn=table.snapshot_lsn,
            takes_rows=to.takes_inserts,
        )
        for table in tables
        for to in destined(table, bound)
    ]


def younger_snapshots(view: View) -> dict[int, int]:
    """Give the consistent points of copies that are younger than the change stream's start."""
    start_lsn = view.group.start_lsn
    return {
        oid: table.snapshot_lsn
        for oid, table in view.tables.items()
        if table.snapshot_lsn > start_lsn
    }


def source_shape(table: TableRecord, bound: Bound | None) -> SourceShape:
    """Describe what a table's changes carry."""
    full = table.identity == "f"
    return SourceShape(
        oid=table.oid,
        schema=table.schema,
        name=table.name,
        root=table.root,
        full=full,
        identity=() if full else tuple(table.key),
        columns={
            column.name: KeyColumn(column.name, column.type_oid, column.typmod)
            for column in table.columns
        },
        destinations=destined(table, bound),
    )
