"""Takes the snapshot of a copy: a slot exports it, a holder keeps it, the tables are cut under it.

Upstream: `creation` (with the group's own slot) and `renewal` (with a slot for the moment).
Downstream: `source.snapshot`, the tables' records.
Invariant: what is given is locked, and known to be what the snapshot saw.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from pgflo import errors
from pgflo.broker.records import ColumnRecord, TableRecord, TableState, TypeRecord
from pgflo.errors import PgfloError
from pgflo.source import catalog, ranges
from pgflo.source.connection import application_name, connect
from pgflo.source.shared_snapshot import import_snapshot
from pgflo.source.snapshot import SnapshotHolder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pgflo.broker.records import SnapshotRecord
    from pgflo.config.settings import ReplicateSettings
    from pgflo.source.catalog import SourceTable
    from pgflo.source.slot import CreatedSlot

log = structlog.get_logger("pgflo.replicator")

SNAPSHOT_ATTEMPTS = 5
"""Snapshots to try before giving up against somebody who keeps rewriting tables."""


async def take_snapshot(
    settings: ReplicateSettings,
    tables: Mapping[int, SourceTable],
    export: Callable[[], Awaitable[CreatedSlot | None]],
) -> tuple[SnapshotHolder, SnapshotRecord]:
    """Have a snapshot of these tables held; `export` makes a slot for it (None: there is none).

    Raises `PgfloError`, `psycopg.Error`.
    """
    for attempt in range(1, SNAPSHOT_ATTEMPTS + 1):
        holder = SnapshotHolder.spawn()
        try:
            created = await export()
            await holder.take(
                settings.source.conninfo.get_secret_value(),
                settings.group,
                {oid: (table.schema, table.name) for oid, table in tables.items()},
                created.snapshot if created else None,
                settings.copying.snapshot_linger_s,
            )
            held = await holder.lock()
        except BaseException as error:
            await holder.stop()
            if not _is_rewritten(error) or attempt == SNAPSHOT_ATTEMPTS:
                raise
            log.warning("taking another snapshot", cause=str(error))
        else:
            return holder, replace(held, lsn=created.consistent_lsn) if created else held
    raise AssertionError("the last attempt returns or raises")


async def describe_tables(
    settings: ReplicateSettings,
    tables: Mapping[int, SourceTable],
    snapshot: SnapshotRecord,
    run: int,
) -> list[TableRecord]:
    """Give every table's record as the snapshot sees it, with its ranges."""
    conninfo = settings.source.conninfo.get_secret_value()
    purpose = application_name(settings.group, "catalog")
    async with await connect(conninfo, purpose=purpose) as conn, conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        await import_snapshot(conn, snapshot)
        # Columns may have changed between the preflight and the snapshot.
        described = await catalog.describe(conn, dict(tables))
        planned = await ranges.plan(
            conn,
            list(described),
            range_bytes=settings.copying.range_bytes,
            workers_per_table=settings.copying.max_workers_per_table,
        )
    return [
        replace(
            uncopied(table, snapshot.lsn),
            run=run,
            state=TableState.WAITING,
            ranges=planned[oid].ranges,
            range_blocks=planned[oid].range_blocks,
            bytes=planned[oid].total_bytes,
            estimated_rows=planned[oid].estimated_rows,
        )
        for oid, table in described.items()
    ]


def uncopied(table: SourceTable, snapshot_lsn: int = 0) -> TableRecord:
    """Give the record of a table without rows to copy; its changes count from `snapshot_lsn` on."""
    return TableRecord(
        oid=table.oid,
        schema=table.schema,
        name=table.name,
        root=table.root,
        columns=[
            ColumnRecord(
                column.name,
                column.type_oid,
                column.type_name,
                column.typmod,
                column.base_oid,
                column.is_enum,
                column.category,
            )
            for column in table.columns
        ],
        key=list(table.key),
        identity=table.identity,
        state=TableState.READY,
        snapshot_lsn=snapshot_lsn,
        bounds=table.bounds,
        types=own_types(table),
    )


def own_types(table: SourceTable) -> list[TypeRecord]:
    """Tell what a table's types are made of."""
    return [
        TypeRecord(made.oid, made.kind, made.beneath, made.delimiter, list(made.attributes))
        for made in table.types
    ]


def _is_rewritten(error: BaseException) -> bool:
    return isinstance(error, PgfloError) and error.kind is errors.TABLE_REWRITTEN
