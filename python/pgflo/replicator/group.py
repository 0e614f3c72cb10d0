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
from pgflo._core import has_binary_form
from pgflo.broker.names import Names
from pgflo.broker.records import GroupRecord, Phase, TableRecord
from pgflo.broker.topology import delete_streams
from pgflo.errors import PgfloError
from pgflo.source import drop, preflight, slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
        tables: dict[int, tuple[TableRecord | None, int]],
    ) -> None:
        """`tables` are what is in the record, with its revisions; None: of another incarnation."""
        self.record = record
        self.names = names
        self.value = value
        self.tables = {oid: table for oid, (table, _) in tables.items() if table is not None}
        self.joining: dict[int, TableRecord] = {}
        self._revision = revision
        self._table_revisions = {oid: revision for oid, (_, revision) in tables.items()}

    async def put(self, **changes: Any) -> None:  # noqa: ANN401 - fields of GroupRecord
        """Change fields of the group's record. Raises `PgfloError` (GROUP_CHANGED)."""
        value = replace(self.value, **changes)
        self._revision = await self.record.put_group(value, self._revision)
        self.value = value

    @property
    def unfinished(self) -> list[TableRecord]:
        """Tables whose ranges are not all published."""
        return [table for table in self.tables.values() if not is_finished(table)]

    @property
    def newest_snapshot_lsn(self) -> int:
        """Consistent point of the youngest copy among the tables; 0 without copies."""
        return max((table.snapshot_lsn for table in self.tables.values()), default=0)

    def with_siblings(self, tables: list[TableRecord]) -> list[TableRecord]:
        """Add the other partitions of their roots: the destination may hold them in one table."""
        oids = {table.oid for table in tables}
        roots = {table.root for table in tables} - {None}
        siblings = [table for table in self.tables.values() if table.root in roots]
        return [*tables, *(table for table in siblings if table.oid not in oids)]

    async def put_table(self, table: TableRecord) -> None:
        """Write the record of one table. Raises `PgfloError` (GROUP_CHANGED)."""
        revision = await self.record.replace_table(table, self._table_revisions.get(table.oid))
        if revision is None:
            raise PgfloError(
                errors.GROUP_CHANGED,
                f"another process changed the record of table {table.schema}.{table.name}",
            )
        self._table_revisions[table.oid] = revision
        self.tables[table.oid] = table

    def with_tables(self, oids: Iterable[int]) -> dict[str, Any]:
        """Give the fields of the record with these among the group's tables, as a new layout."""
        tables = {*self.value.tables, *oids}
        return {
            "tables": sorted(tables),
            "joining": sorted(set(self.value.joining) - tables),
            "layout": self.value.layout + 1,
        }

    async def note_joining(self, table: TableRecord) -> None:
        """Write the record of a table that is to join."""
        await self.record.put_table(table)
        self.joining[table.oid] = table

    async def begin_run(self) -> None:
        """Make the unfinished tables ours: what a former replicator still writes is refused."""
        run = self.value.copy_runs + 1
        await self.put(copy_runs=run)
        for known in self.unfinished:
            await self.take_table(
                known.oid, lambda table: replace(table, run=run, running_ranges=0)
            )

    async def take_table(self, oid: int, change: Callable[[TableRecord], TableRecord]) -> None:
        """Write what `change` makes of a table's record, whoever has written it meanwhile.

        From then on a former replicator, which knows an older revision, writes it no more.
        """
        revision = None
        while revision is None:
            stored = await self.record.table(oid)
            known = stored[0] if stored else self.tables.get(oid) or self.joining[oid]
            table = change(known)
            revision = await self.record.replace_table(table, stored[1] if stored else None)
            self.tables[oid] = table
        self._table_revisions[oid] = revision

    async def overwrite_table(self, table: TableRecord) -> None:
        """Write the record of one table, whatever it says by now; `take_table` with no regard."""
        await self.take_table(table.oid, lambda _: table)


def is_finished(table: TableRecord) -> bool:
    """Whether the broker has all that is copied of a table."""
    return table.ranges == 0 or table.published_ranges >= table.ranges


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

    A group that was being made may lack anything.
    """
    return value.phase is Phase.CREATING


async def resume(record: Record, found: Found, settings: ReplicateSettings) -> Group:
    """Go on with a group whose tables are known."""
    names = Names(settings.group, uuid.UUID(found.value.incarnation))
    every = await record.tables_with_revisions()
    tables = {oid: every[oid] for oid in found.value.tables if oid in every}
    group = Group(record, names, found.value, found.revision, dict(tables))
    group.joining = {oid: every[oid][0] for oid in found.value.joining if oid in every}
    if found.value.phase is Phase.DONE and found.value.mode != COPY_ONLY:
        await group.put(phase=Phase.STREAMING, final_lsn=None)
    return group


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
    if settings.copying.format == "binary":
        findings += without_binary_form(tables)
    fatal = [error for error in findings if not (known and error.kind in _ABOUT_TABLES)]
    for finding in findings:
        tell = log.error if finding in fatal else log.warning
        tell(finding.detail, kind=finding.kind.code, hint=finding.hint)
    if fatal:
        raise fatal[0]
    return replace(tables, findings=tuple(findings))


def without_binary_form(tables: TableSet) -> list[PgfloError]:
    """Name the columns whose type keeps a table from travelling in binary."""
    found = [
        (table, [column for column in table.columns if not has_binary_form([column.type_oid])])
        for table in tables.tables
    ]
    return [
        PgfloError(
            errors.TABLE_WITHOUT_BINARY_FORM,
            f"{table} cannot be copied in binary because of "
            + ", ".join(f"{column.name} ({column.type_name})" for column in columns),
        )
        for table, columns in found
        if columns
    ]


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
    errors.TABLE_WITHOUT_BINARY_FORM,
)
