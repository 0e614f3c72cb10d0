"""How a start finds its group: as it was, with tables that join or are copied anew, or made anew.

Upstream: `run`, which holds the lease. Downstream: `group`, `growth`, `renewal`, `creation`.
Invariant: what is given can be worked on at once: while a table is not finished, its snapshot comes
along, and nothing that joins is published before the record tells of it.

    no record, CREATING, --restart        → a new incarnation
    tables not finished, snapshot held    → go on with the ranges that are left
    … snapshot lost, ranges lost, joining → those tables copied under a new snapshot
    nothing left                          → stream
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import structlog

from pgflo.broker.records import Phase
from pgflo.errors import PgfloError
from pgflo.replicator import group as groups
from pgflo.replicator import growth
from pgflo.replicator.copied import lost_tables
from pgflo.replicator.creation import Creator
from pgflo.replicator.group import COPY_ONLY, Found, Group
from pgflo.replicator.renewal import renew
from pgflo.replicator.snapshots import uncopied
from pgflo.source.connection import application_name, connect
from pgflo.source.shared_snapshot import SharedSnapshot, end_holders, look_past, snapshot_lost

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.broker.record import Record
    from pgflo.broker.records import TableRecord
    from pgflo.config.settings import ReplicateSettings
    from pgflo.source.catalog import SourceTable, TableSet
    from pgflo.source.snapshot import SnapshotHolder

log = structlog.get_logger("pgflo.replicator")


class Opening:
    """Opens the group of one replicator, again after each failure. Keeps its snapshot's holder."""

    def __init__(self, settings: ReplicateSettings, broker: Broker) -> None:
        self._settings = settings
        self._broker = broker
        self._conninfo = settings.source.conninfo.get_secret_value()
        self._restart = settings.restart
        self._holder: SnapshotHolder | None = None
        """The process that holds the snapshot, if it is one of ours."""
        self.is_abandoned = False
        """Whether a first start failed, and left nothing behind."""
        self.has_begun = False
        """Whether a snapshot was taken: if it is lost, another one is worth trying."""
        self.grows_later = False
        """Whether tables wait to join until the copy under way is complete."""
        self.looked_at_generation = broker.generation
        """The broker connection's, when the copy stream was last looked at for losses."""

    async def examine_new(self) -> None:
        """Run the preflight of a group that is not there. Raises what it finds."""
        async with await self._connect("check") as conn:
            await groups.examine(conn, self._settings, known=False)
            await groups.refuse_orphan(conn, self._settings)

    async def open(self, record: Record) -> tuple[Group, SharedSnapshot | None]:
        """Resume the group that is there, or make a new incarnation."""
        settings = self._settings
        self.looked_at_generation = self._broker.generation
        stored = await record.group()
        found = Found(*stored) if stored else None
        async with await self._connect("control") as conn:
            begins = found is None or self._restart or groups.needs_new_incarnation(found.value)
            if found is not None and not self._restart and found.value.phase is not Phase.CREATING:
                groups.check_mode(found.value, settings.mode)
            if found is not None and found.value.snapshot is not None:
                await look_past(conn, found.value.snapshot)
            table_set = await groups.examine(conn, settings, known=not begins)
            if found is not None and not begins:
                group = await groups.resume(record, found, settings)
                await growth.note_types(group, table_set)
                is_resumed, snapshot = await self._resume_copy(conn, group, table_set)
                if is_resumed:
                    return group, snapshot
            if found is None:
                await groups.refuse_orphan(conn, settings)
            else:
                await groups.discard(conn, self._broker, settings, found)
            creator = Creator(conn, self._broker, record, settings, table_set)
            await self._end_holder()
            try:
                group, self._holder = await creator.create(found)
            except (PgfloError, psycopg.Error):
                self.is_abandoned = found is None and await creator.undo()
                raise
            self._restart = self.is_abandoned = False
            return group, await self._share_new(group)

    async def let_go(self) -> None:
        """End the snapshot: the copy is complete."""
        await self._end_holder()
        async with await self._connect("control") as conn:
            await end_holders(conn, self._settings.group)

    def leave(self) -> None:
        """Part from the snapshot's holder, which stays for the next replicator."""
        if self._holder is not None:
            self._holder.leave()

    async def _resume_copy(
        self, conn: psycopg.AsyncConnection[Any], group: Group, table_set: TableSet
    ) -> tuple[bool, SharedSnapshot | None]:
        """Go on with what is left of a copy, and with tables that join; False: that cannot be."""
        lost = await lost_tables(self._broker, group)
        new = await growth.new_tables(conn, group, table_set)
        snapshot, self.grows_later = None, False
        if not lost and not group.joining and group.unfinished:
            snapshot = await self._share(group)
        if snapshot is not None:
            try:
                await group.begin_run()
            except BaseException:
                await snapshot.close()  # else its holder would be kept for as long as we live
                raise
            # Not under this snapshot, and not at the cost of what is copied under it.
            if group.value.mode == COPY_ONLY:
                _tell_left_out(new)
            else:
                self.grows_later = bool(new)
            return True, snapshot
        again = lost or group.unfinished
        if group.value.mode == COPY_ONLY:
            if again:
                # Nothing would bring tables of two snapshots to one point.
                log.warning("the snapshot is lost; the copy begins again")
                return False, None
            _tell_left_out(new)
        elif new or group.joining:
            again = again + await growth.join(conn, group, table_set, new)
        if not again:
            await self._without_copy(conn, group)
            return True, None
        if group.value.mode == "stream":
            await growth.add_uncopied(group, again)
            return True, None
        return True, await self._renew(conn, group, group.with_siblings(again), table_set)

    async def _without_copy(self, conn: psycopg.AsyncConnection[Any], group: Group) -> None:
        """Clear away what a copy left that ended between its last words in the record and this."""
        if group.value.phase is Phase.COPYING:
            await group.put(phase=Phase.STREAMING, snapshot=None)
        await end_holders(conn, self._settings.group)

    async def _renew(
        self,
        conn: psycopg.AsyncConnection[Any],
        group: Group,
        tables: list[TableRecord],
        table_set: TableSet,
    ) -> SharedSnapshot | None:
        """Copy tables anew in this incarnation."""
        await self._end_holder()
        roots = {table.root for table in tables} - {None}
        later = [
            uncopied(table)
            for table in table_set.tables
            if table.root in roots and table.oid not in group.tables
        ]
        # Partitions made since were streamed alone. Their rows go with the others' where the
        # destination has them in one table, so they are copied as well.
        for table in later:
            await group.note_joining(table)
        self._holder = await renew(conn, self._broker, self._settings, group, [*tables, *later])
        if not group.unfinished:
            await self._without_copy(conn, group)  # all of them were dropped at the source
        return await self._share_new(group)

    async def _end_holder(self) -> None:
        if self._holder is not None:
            await self._holder.stop()
            self._holder = None

    async def _share_new(self, group: Group) -> SharedSnapshot | None:
        self.has_begun = True
        if not group.unfinished:
            return None
        if (snapshot := await self._share(group)) is None:
            raise snapshot_lost()
        return snapshot

    async def _share(self, group: Group) -> SharedSnapshot | None:
        """Use the snapshot of the unfinished tables, if it is still held."""
        held = group.value.snapshot
        if held is None or any(table.snapshot_lsn != held.lsn for table in group.unfinished):
            return None
        return await SharedSnapshot.open(self._conninfo, self._settings.group, held)

    async def _connect(self, part: str) -> psycopg.AsyncConnection[Any]:
        purpose = application_name(self._settings.group, part)
        return await connect(self._conninfo, purpose=purpose)


def _tell_left_out(tables: list[SourceTable]) -> None:
    """Warn of tables that a copy without a stream cannot take in: it has one snapshot for all."""
    if tables:
        log.warning(
            "tables that match --tables now are not part of this copy",
            tables=", ".join(map(str, tables)),
            hint="`pgflo replicate --copy --restart` copies all of them, from the beginning.",
        )
