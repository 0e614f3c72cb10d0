"""Tables that join a group: found among what the settings mean, published, noted in the record.

Upstream: `opening`, at a start whose --tables mean more than before. Downstream: `renewal` copies
them. What the types of tables are made of, which may have changed since, is noted here as well.

    record: table WAITING, group: joining → publications cover it → (renewal) a table of the group

Invariant: a table is noted as joining before the first change of it can be in the log, and nothing
is streamed until it is a table of the group, with the point from which its changes count. So no
sink ever meets a change of a table that the record does not tell. A start that finds tables joining
goes on with them, whatever its settings mean.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from pgflo.broker.records import TableState
from pgflo.replicator.snapshots import own_types, uncopied
from pgflo.source import publication

if TYPE_CHECKING:
    import psycopg

    from pgflo.broker.records import TableRecord
    from pgflo.replicator.group import Group
    from pgflo.source.catalog import SourceTable, TableSet

log = structlog.get_logger("pgflo.replicator")


async def new_tables(
    conn: psycopg.AsyncConnection[Any], group: Group, table_set: TableSet
) -> list[SourceTable]:
    """Give the tables that the settings mean now and the group does not have.

    Partitions made since belong to it: their root is published.
    """
    covered = await publication.covered(conn, group.value.publications)
    found = [
        table
        for table in table_set.tables
        if table.oid not in group.tables and table.oid not in covered
    ]
    if not group.value.publications[1:]:
        # Its publication would be missing from the log before now.
        late = [str(table) for table in found if table.insert_only]
        if late:
            log.warning(
                "tables for inserts only can join a group that began with one; --restart includes"
                " them",
                tables=", ".join(late),
            )
        found = [table for table in found if not table.insert_only]
    return found


async def join(
    conn: psycopg.AsyncConnection[Any],
    group: Group,
    table_set: TableSet,
    tables: list[SourceTable],
) -> list[TableRecord]:
    """Note these tables and have them published; gives all that are joining by now.

    Raises `PgfloError` when one of them cannot be replicated; nothing is changed then.
    """
    names = {str(table) for table in tables}
    for finding in table_set.findings:
        if finding.context.get("table") in names:
            raise finding
    for table in tables:
        await group.note_joining(replace(uncopied(table), state=TableState.WAITING))
    joining = {*group.value.joining, *(table.oid for table in tables)}
    await group.put(joining=sorted(joining))
    await publication.extend(conn, group.value.publications, table_set.published)
    # One that a former start noted, did not publish, and that is not wanted any more, was never in.
    joining &= await publication.covered(conn, group.value.publications)
    await group.put(joining=sorted(joining))
    found = [group.joining[oid] for oid in sorted(joining) if oid in group.joining]
    log.info(
        "tables join the group",
        tables=", ".join(f"{table.schema}.{table.name}" for table in found),
    )
    return found


async def add_uncopied(group: Group, tables: list[TableRecord]) -> None:
    """Make joining tables the group's, of whose rows only changes are wanted."""
    for table in tables:
        await group.overwrite_table(replace(table, state=TableState.READY))
    await group.put(**group.with_tables(table.oid for table in tables))


async def note_types(group: Group, table_set: TableSet) -> None:
    """Tell sinks what the columns' types are made of, where that is not what the record says.

    Changes from here on are of a new layout, for which sinks wait. Tables are written one by one;
    each tells the layout that it was written for, so that a start after a crash in between knows
    of one that was never begun.
    """
    changed = {
        table.oid: own_types(table)
        for table in table_set.tables
        if table.oid in group.tables and own_types(table) != group.tables[table.oid].types
    }
    layout = group.value.layout + 1
    for oid, types in changed.items():
        await group.take_table(oid, functools.partial(replace, types=types, types_layout=layout))
    if any(table.types_layout > group.value.layout for table in group.tables.values()):
        await group.put(**group.with_tables(()))
