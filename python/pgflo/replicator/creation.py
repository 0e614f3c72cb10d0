"""Makes a new incarnation, in an order that any crash leaves cleanable.

Upstream: group decided that there is none to go on with. Downstream: stream and copy.

    record CREATING → streams → publications → slot (exports a snapshot) → snapshot holder, locks
    → tables as the snapshot sees them → record COPYING or STREAMING

Invariant: everything that is made carries the group's name and is covered by the record that was
written first. A start that finds CREATING removes it all and begins again; nothing of it can have
been applied, since sinks wait for a later phase.
"""

from __future__ import annotations

import uuid
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
from psycopg import sql

from pgflo import errors
from pgflo._core import lsn_format
from pgflo.broker.names import Names
from pgflo.broker.records import ColumnRecord, GroupRecord, Phase, TableRecord, TableState
from pgflo.broker.topology import create_streams, delete_streams
from pgflo.errors import PgfloError, describe
from pgflo.replicator.group import COPY_ONLY, Found, Group
from pgflo.source import catalog, drop, publication, ranges, slot
from pgflo.source.connection import application_name, connect
from pgflo.source.snapshot import SnapshotHolder
from pgflo.source.walsender import WalSender

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.broker.record import Record
    from pgflo.config.settings import ReplicateSettings
    from pgflo.source.catalog import SourceTable, TableSet

log = structlog.get_logger("pgflo.replicator")

DECODING_OPTIONS = {"proto_version": "1", "messages": "true"}
"""Ordinals count what these options send: they never change within an incarnation."""

SNAPSHOT_ATTEMPTS = 5
"""Snapshots to try before giving up against somebody who keeps rewriting tables."""


class Creator:
    """Makes one incarnation of a group."""

    def __init__(
        self,
        conn: psycopg.AsyncConnection[Any],
        broker: Broker,
        record: Record,
        settings: ReplicateSettings,
        table_set: TableSet,
    ) -> None:
        self._conn = conn
        self._broker = broker
        self._record = record
        self._settings = settings
        self._table_set = table_set
        self._tables = {table.oid: table for table in table_set.tables}
        self._conninfo = settings.source.conninfo.get_secret_value()
        self._names = Names(settings.group, uuid.uuid4())
        self._copies = settings.mode != "stream"
        self._streams = settings.mode != COPY_ONLY

    async def create(self, found: Found | None) -> tuple[Group, SnapshotHolder | None]:
        """Make everything; with a copy, the holder of its snapshot comes along, its tables locked.

        `found` is the record that is written over. Raises `PgfloError` of any kind of the source or
        the broker; what was made then is removed by the next start.
        """
        async with AsyncExitStack() as stack:
            walsender = await WalSender.open(self._conninfo, self._settings.group)
            stack.push_async_callback(walsender.finish)
            group = await self._announce(walsender, found)
            await create_streams(self._broker, self._names, self._settings.nats, copy=self._copies)
            publications: list[str] = []
            if self._streams:
                publications = await publication.create(
                    self._conn,
                    self._table_set.published,
                    self._names.publication,
                    self._names.insert_publication,
                )
            holder, start_lsn = await self._take_snapshot(walsender)
            if holder is not None:
                stack.push_async_callback(holder.stop)
            await self._describe(group, holder, start_lsn)
            await group.put(
                phase=Phase.COPYING if self._copies else Phase.STREAMING,
                publications=publications,
                start_lsn=start_lsn,
                tables=sorted(self._tables),
            )
            log.info(
                "group created",
                group=self._settings.group,
                incarnation=str(self._names.incarnation),
                tables=len(self._tables),
                start_lsn=lsn_format(start_lsn),
            )
            stack.pop_all()
        await walsender.finish()
        return group, holder

    async def undo(self) -> bool:
        """Remove what a failed `create` has made, as far as source and broker answer."""
        try:
            await drop.drop_objects(self._conn, self._names)
            await delete_streams(self._broker, self._names)
        except (PgfloError, psycopg.Error) as error:
            log.warning("an unfinished start is left to be removed by the next", cause=_tell(error))
            return False
        return True

    async def _announce(self, walsender: WalSender, found: Found | None) -> Group:
        identity = await walsender.identify()
        value = GroupRecord(
            incarnation=str(self._names.incarnation),
            system_id=identity.system_id,
            timeline=identity.timeline,
            database=identity.database,
            slot=self._names.slot if self._streams else "",
            publications=[],
            options=dict(DECODING_OPTIONS),
            mode=self._settings.mode,
            start_lsn=0,
            phase=Phase.CREATING,
        )
        revision = await self._record.put_group(value, found.revision if found else None)
        return Group(self._record, self._names, value, revision, {})

    async def _take_snapshot(self, walsender: WalSender) -> tuple[SnapshotHolder | None, int]:
        """Make the slot, and for a copy hold the snapshot that goes with it."""
        for attempt in range(1, SNAPSHOT_ATTEMPTS + 1):
            created = None
            if self._streams:
                await slot.drop(self._conn, self._names.slot)
                created = await slot.create(walsender.connection, self._conn, self._names.slot)
            if not self._copies:
                return None, created.consistent_lsn if created else 0
            holder = await SnapshotHolder.start(
                self._conninfo,
                self._settings.group,
                {oid: (table.schema, table.name) for oid, table in self._tables.items()},
                created.snapshot if created else None,
            )
            try:
                await holder.lock()
            except PgfloError as error:
                await holder.stop()
                if error.kind is not errors.TABLE_REWRITTEN or attempt == SNAPSHOT_ATTEMPTS:
                    raise
                log.warning("taking another snapshot", cause=error.detail)
            else:
                return holder, created.consistent_lsn if created else holder.lsn
        raise AssertionError("the last attempt returns or raises")

    async def _describe(self, group: Group, holder: SnapshotHolder | None, start_lsn: int) -> None:
        """Write the record of every table, as the snapshot sees it, with its ranges."""
        if holder is None:
            for table in self._tables.values():
                await group.put_table(table_record(table, None, start_lsn))
            return
        purpose = application_name(self._settings.group, "catalog")
        async with await connect(self._conninfo, purpose=purpose) as conn, conn.transaction():
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await conn.execute(
                sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(holder.snapshot))
            )
            # Columns may have changed between the preflight and the snapshot.
            self._tables = await catalog.describe(conn, self._tables)
            planned = await ranges.plan(
                conn,
                list(self._tables),
                range_bytes=self._settings.copying.range_bytes,
                workers_per_table=self._settings.copying.max_workers_per_table,
            )
        for oid, table in self._tables.items():
            await group.put_table(table_record(table, planned[oid], start_lsn))


def _tell(error: PgfloError | psycopg.Error) -> str:
    return error.detail if isinstance(error, PgfloError) else describe(error)


def table_record(
    table: SourceTable, planned: ranges.TableRanges | None, snapshot_lsn: int
) -> TableRecord:
    """Describe a table in the group's record."""
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
        state=TableState.WAITING if planned else TableState.READY,
        snapshot_lsn=snapshot_lsn if planned else 0,
        ranges=planned.ranges if planned else 0,
        range_blocks=planned.range_blocks if planned else 0,
        bytes=planned.total_bytes if planned else 0,
        bounds=table.bounds,
    )
