"""Copies tables of a living group under a new snapshot, each from a consistent point of its own.

Upstream: `run` finds tables whose snapshot is lost, whose ranges the broker lost, or that join.
Downstream: their records, and a copy of them.

    publications cover them → a slot for the moment exports a snapshot → holder, locks → the
    tables' records, with the new consistent point → group: COPYING, the snapshot

The slot tells the one point in the log that fits the snapshot: a transaction that committed before
it is in the copy, any other comes through the stream. (`pg_current_wal_lsn()` would not do: a
commit may be in the log and not yet visible.) Sinks pass over a table's changes before its point.

Invariant: while this runs nothing is streamed, and whoever read the group's slot before is cut off
first: what a replicator that was taken for dead still has was committed by then. So whatever the
change stream holds by now committed before the new points, and what comes behind them is published
when the records say so. A crash between any two steps leaves tables that are not finished; the next
start renews them again.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import structlog

from pgflo._core import lsn_format
from pgflo.broker.records import Phase
from pgflo.broker.topology import create_streams
from pgflo.replicator.snapshots import describe_tables, take_snapshot, uncopied
from pgflo.source import catalog, slot
from pgflo.source.catalog import SourceTable
from pgflo.source.shared_snapshot import end_holders
from pgflo.source.walsender import WalSender

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

    from pgflo.broker.connection import Broker
    from pgflo.broker.records import TableRecord
    from pgflo.config.settings import ReplicateSettings
    from pgflo.replicator.group import Group
    from pgflo.source.slot import CreatedSlot
    from pgflo.source.snapshot import SnapshotHolder

log = structlog.get_logger("pgflo.replicator")


async def renew(
    conn: psycopg.AsyncConnection[Any],
    broker: Broker,
    settings: ReplicateSettings,
    group: Group,
    tables: Iterable[TableRecord],
) -> SnapshotHolder | None:
    """Begin the copy of these tables, members or joining; the group's record tells the snapshot.

    Gives its holder's handle; None when none of them exists any more. Raises `PgfloError`,
    `psycopg.Error`.
    """
    known = {table.oid: _source_table(table) for table in tables}
    await slot.end_old_reader(conn, group.value.slot)
    await end_holders(conn, settings.group)
    await create_streams(broker, group.names, settings.nats, copy=True)
    present = await catalog.present(conn, known)
    walsender = await WalSender.open(settings.source.conninfo.get_secret_value(), settings.group)

    async def export() -> CreatedSlot:
        # It goes with the session.
        name = group.names.momentary_slot(uuid.uuid4().hex[:8])
        return await slot.create(walsender.connection, conn, name, is_temporary=True)

    run = group.value.copy_runs + 1
    try:
        holder, held = await take_snapshot(settings, present, export)
    finally:
        await walsender.finish()
    try:
        records = await describe_tables(settings, present, held, run)
        # Without rows under this snapshot, and without changes behind it. What sinks have stays.
        gone = [uncopied(known[oid], held.lsn) for oid in sorted(known.keys() - present.keys())]
        records += gone
        await group.put(copy_runs=run)
        for record in records:
            await group.overwrite_table(record)
        await group.put(
            phase=Phase.COPYING,
            snapshot=held,
            final_lsn=None,
            **group.with_tables(known),
        )
    except BaseException:
        await holder.stop()
        raise
    if gone:
        log.warning(
            "tables are gone at the source; what the sinks have of their rows stays",
            tables=", ".join(f"{table.schema}.{table.name}" for table in gone),
        )
    log.info(
        "copying tables under a new snapshot",
        tables=", ".join(sorted(str(table) for table in present.values())),
        snapshot_lsn=lsn_format(held.lsn),
    )
    return holder


def _source_table(table: TableRecord) -> SourceTable:
    """Describe a table as it was when its record was written."""
    return SourceTable(
        oid=table.oid,
        schema=table.schema,
        name=table.name,
        root=table.root,
        root_oid=0,
        bounds=table.bounds,
        columns=(),
        key=tuple(table.key),
        identity=table.identity,
        insert_only=False,
        may_read=True,
        may_publish=True,
    )
