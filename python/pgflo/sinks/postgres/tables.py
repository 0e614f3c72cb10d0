"""The group's tables as the PostgreSQL sink needs to know them.

Upstream: table records of the group. Downstream: preparation, the copy, placement on shards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo.sinks.postgres.assignment import KeyColumn
from pgflo.sinks.postgres.placement import SourceShape
from pgflo.sinks.postgres.prepare import SourceTable

if TYPE_CHECKING:
    from pgflo.broker.records import TableRecord


def source_table(table: TableRecord, *, copied: bool) -> SourceTable:
    """Describe a table to the sink."""
    return SourceTable(
        oid=table.oid,
        schema=table.schema,
        name=table.name,
        root=table.root,
        columns=tuple(column.name for column in table.columns),
        copied=copied,
        bounds=table.bounds,
        snapshot_lsn=table.snapshot_lsn,
    )


def source_shape(table: TableRecord) -> SourceShape:
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
    )
