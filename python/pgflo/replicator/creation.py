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

from pgflo._core import lsn_format
from pgflo.broker.names import Names
from pgflo.broker.records import GroupRecord, Phase, TableRecord
from pgflo.broker.topology import create_streams, delete_streams
from pgflo.errors import PgfloError, describe
from pgflo.replicator.group import COPY_ONLY, Found, Group
from pgflo.replicator.sequences import Sequences
from pgflo.replicator.snapshots import describe_tables, take_snapshot, uncopied
from pgflo.source import drop, publication, slot
from pgflo.source.walsender import WalSender

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.broker.record import Record
    from pgflo.config.settings import ReplicateSettings
    from pgflo.source.catalog import TableSet
    from pgflo.source.slot import CreatedSlot
    from pgflo.source.snapshot import SnapshotHolder

log = structlog.get_logger("pgflo.replicator")

DECODING_OPTIONS = {"proto_version": "1", "messages": "true"}
"""Ordinals count what these options send: they never change within an incarnation."""

FIRST_RUN = 1


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

        The record tells all that there is to know about it; the handle is for ending it. `found` is
        the record that is written over. Raises `PgfloError` of any kind of the source or the
        broker; what was made then is removed by the next start.
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
            holder = snapshot = None
            if self._copies:
                holder, snapshot = await take_snapshot(
                    self._settings, self._tables, lambda: self._make_slot(walsender)
                )
                stack.push_async_callback(holder.stop)
                start_lsn = snapshot.lsn
                records = await describe_tables(self._settings, self._tables, snapshot, FIRST_RUN)
            else:
                created = await self._make_slot(walsender)
                start_lsn = created.consistent_lsn if created else 0
                records = [uncopied(table) for table in self._tables.values()]
            for record in records:
                await group.put_table(record)
            # Before anybody copies: a reading after the snapshot covers all that it shows.
            sequences = Sequences(
                self._record, str(self._names.incarnation), list(self._tables), self._conninfo
            )
            await sequences.tell(self._conn, always=True)
            await group.put(
                phase=Phase.COPYING if self._copies else Phase.STREAMING,
                publications=publications,
                start_lsn=start_lsn,
                tables=sorted(self._tables),
                copy_runs=FIRST_RUN,
                snapshot=snapshot,
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
        # What a former incarnation left is written over.
        left = await self._record.tables_with_revisions() if found else {}
        revisions: dict[int, tuple[TableRecord | None, int]] = {
            oid: (None, seen) for oid, (_, seen) in left.items()
        }
        return Group(self._record, self._names, value, revision, revisions)

    async def _make_slot(self, walsender: WalSender) -> CreatedSlot | None:
        if not self._streams:
            return None
        await slot.drop(self._conn, self._names.slot)
        return await slot.create(walsender.connection, self._conn, self._names.slot)


def _tell(error: PgfloError | psycopg.Error) -> str:
    return error.detail if isinstance(error, PgfloError) else describe(error)
