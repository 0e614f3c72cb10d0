"""The group's tables as the PostgreSQL sink needs to know them.

Upstream: table records of the group, and the rules that they go through. Downstream: preparation,
the copy, placement on shards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo.rules.destinations import destined
from pgflo.sinks.postgres.assignment import KeyColumn
from pgflo.sinks.postgres.placement import SourceShape
from pgflo.sinks.postgres.prepare import SourceTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgflo.broker.records import TableRecord
    from pgflo.rules.bind import Bound


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
            # Without ranges it is gone at the source: what is here of it is nobody's to empty.
            takes_rows=to.takes_inserts and table.ranges > 0,
            source_oid=table.oid,
        )
        for table in tables
        for to in destined(table, bound)
    ]


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
