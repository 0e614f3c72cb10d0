"""A group as its replicator sees it: begun, begun again, or gone on with.

Upstream: the settings, and the group's record in the broker. Downstream: creation makes what a new
incarnation needs; stream and copy work on what this gives.
Invariant: only a group whose record says COPYING, STREAMING, COPIED or DONE has anything in its
streams that a sink may apply, and a group is never begun anew silently over something that was
applied: then the incarnation changes, and with it every name and every key under which sinks
remember.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from pgflo import errors
from pgflo.broker.names import Names
from pgflo.broker.records import GroupRecord, Phase, TableRecord, TableState
from pgflo.broker.topology import delete_streams
from pgflo.errors import PgfloError
from pgflo.source import drop, preflight, slot

if TYPE_CHECKING:
    import psycopg

    from pgflo.broker.connection import Broker
    from pgflo.broker.record import Record
    from pgflo.config.settings import ReplicateSettings
    from pgflo.source.catalog import TableSet

log = structlog.get_logger("pgflo.replicator")

COPY_ONLY = "copy"


class Group:
    """One incarnation: its names, record and tables. Only the replicator writes it."""

    def __init__(
        self,
        record: Record,
        names: Names,
        value: GroupRecord,
        revision: int,
        tables: dict[int, TableRecord],
    ) -> None:
        self.record = record
        self.names = names
        self.value = value
        self.tables = tables
        self._revision = revision

    async def put(self, **changes: Any) -> None:  # noqa: ANN401 - fields of GroupRecord
        """Change fields of the group's record. Raises `PgfloError` (GROUP_CHANGED)."""
        value = replace(self.value, **changes)
        self._revision = await self.record.put_group(value, self._revision)
        self.value = value

    async def put_table(self, table: TableRecord) -> None:
        """Write the record of one table."""
        self.tables[table.oid] = table
        await self.record.put_table(table)

    async def finish_tables(self) -> None:
        """Mark every table ready: there was nothing to copy."""
        for table in list(self.tables.values()):
            if table.state is not TableState.READY:
                await self.put_table(replace(table, state=TableState.READY))


@dataclass(frozen=True, slots=True)
class Found:
    """What was there before: the record of the group, and where it was read."""

    value: GroupRecord
    revision: int


def check_mode(value: GroupRecord, mode: str) -> None:
    """Raise `PgfloError` (GROUP_MODE) when the group was made for another job."""
    if value.mode == mode or (value.mode == "copy-and-stream" and mode == "stream"):
        return
    raise PgfloError(
        errors.GROUP_MODE,
        f"the group was made by `pgflo replicate --{value.mode}` and cannot go on with --{mode}",
    )


def needs_new_incarnation(value: GroupRecord) -> bool:
    """Whether a start is unfinished business that cannot be gone on with.

    A group that was being made may lack anything. An interrupted copy has lost its snapshot, and
    ranges never continue under another one: rows move between them.
    """
    return value.phase in (Phase.CREATING, Phase.COPYING)


async def resume(record: Record, found: Found, settings: ReplicateSettings) -> Group:
    """Go on with a group whose copy, if any, is complete."""
    names = Names(settings.group, uuid.UUID(found.value.incarnation))
    every = await record.tables()
    tables = {oid: every[oid] for oid in found.value.tables if oid in every}
    group = Group(record, names, found.value, found.revision, tables)
    if found.value.phase is Phase.DONE and found.value.mode != COPY_ONLY:
        await group.put(phase=Phase.STREAMING, final_lsn=None)
    return group


def tell_new_tables(group: Group, table_set: TableSet) -> None:
    """Warn of tables that the settings mean now and the group does not have.

    Partitions made since belong to it: their root is published.
    """
    roots = {table.root for table in group.tables.values()} - {None}
    new = [
        str(table)
        for table in table_set.tables
        if table.oid not in group.tables and table.root not in roots
    ]
    if new:
        log.warning(
            "tables that match --tables are not part of the group; --restart includes them",
            tables=", ".join(new),
        )


async def discard(
    conn: psycopg.AsyncConnection[Any], broker: Broker, settings: ReplicateSettings, found: Found
) -> None:
    """Remove an incarnation's slot, publications and streams. Its record is written over."""
    names = Names(settings.group, uuid.UUID(found.value.incarnation))
    removed = await drop.drop_objects(conn, names)
    await delete_streams(broker, names)
    log.info("the group begins anew", removed=removed, incarnation=found.value.incarnation)


async def examine(
    conn: psycopg.AsyncConnection[Any], settings: ReplicateSettings, *, known: bool
) -> TableSet:
    """Run the preflight. Raises its first finding, after logging them all.

    For a group that is known, findings about tables are warnings: it goes on with the tables it
    has.
    """
    names = Names(settings.group, uuid.UUID(int=0))
    slot_name = None if settings.mode == COPY_ONLY else names.slot
    tables, findings = await preflight.examine(conn, settings.source, slot=slot_name)
    fatal = [error for error in findings if not (known and error.kind in _ABOUT_TABLES)]
    for finding in findings:
        tell = log.error if finding in fatal else log.warning
        tell(finding.detail, kind=finding.kind.code, hint=finding.hint)
    if fatal:
        raise fatal[0]
    return tables


async def refuse_orphan(conn: psycopg.AsyncConnection[Any], settings: ReplicateSettings) -> None:
    """Raise when the source has a slot of this group, but the broker knows nothing of the group.

    Then the broker lost its store, or it is another broker. Sinks hold positions of the incarnation
    that is gone; to begin anew is for the operator to say.
    """
    names = Names(settings.group, uuid.UUID(int=0))
    if settings.restart or await slot.state(conn, names.slot) is None:
        return
    raise PgfloError(
        errors.GROUP_ORPHANED,
        f"the source has slot {names.slot}, but the broker does not know group {settings.group}",
    )


_ABOUT_TABLES = (
    errors.TABLE_MISSING,
    errors.TABLE_UNSUPPORTED,
    errors.TABLE_NO_RIGHT,
    errors.TABLE_WITHOUT_IDENTITY,
)
