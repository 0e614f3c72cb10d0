"""Whether the broker still has what the ledger of the copy says it has, and whether all is needed.

Upstream: the tables' records, and what sinks say they have committed. Downstream: `renewal` copies
anew what is missing.
Invariant: a range that counts as published is either in the copy stream, or committed by every
registered sink. The broker acknowledges before its disk has the data: after a loss of power the end
of the stream may be gone while the record, which is another stream, says otherwise. What is lost is
always an end, so the last range of all tells of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from pgflo import _core
from pgflo.broker.spans import numbers
from pgflo.broker.stored import is_missing, message_at, stream_state
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.broker.records import CopiedRecord, TableRecord
    from pgflo.replicator.group import Group

log = structlog.get_logger("pgflo.replicator")


async def lost_tables(broker: Broker, group: Group) -> list[TableRecord]:
    """Give the tables that must be copied anew since the broker lost ranges; mostly none."""
    waiting = await _waiting_tables(group)
    last = max(waiting, key=lambda table: table.last_seq, default=None)
    if last is None or last.last_seq == 0 or await _is_there(broker, group, last):
        return []
    log.warning(
        "the broker lost a part of the copy; tables that no sink has whole are copied anew",
        tables=", ".join(f"{table.schema}.{table.name}" for table in waiting),
    )
    return waiting


async def _waiting_tables(group: Group) -> list[TableRecord]:
    """Give the tables with ranges that a registered sink has not committed."""
    tables = [table for table in group.tables.values() if table.ranges]
    copied = await _copied_by_sinks(group) if tables else []
    return [
        table
        for table in tables
        if not copied or not all(table.oid in of and of[table.oid].has_all(table) for of in copied)
    ]


async def is_all_applied(group: Group) -> bool:
    """Whether every sink has every range that is published; no sink has none."""
    copied = await _copied_by_sinks(group)
    return bool(copied) and all(
        table.oid in of
        and of[table.oid].snapshot_lsn == table.snapshot_lsn
        and numbers(table.published) <= set(of[table.oid].ranges)
        for table in group.tables.values()
        if table.published
        for of in copied
    )


async def _copied_by_sinks(group: Group) -> list[dict[int, CopiedRecord]]:
    return [
        await group.record.copied(name) if sink.incarnation == group.value.incarnation else {}
        for name, sink in (await group.record.sinks()).items()
    ]


async def _is_there(broker: Broker, group: Group, table: TableRecord) -> bool:
    """Whether the stream has the final part of the range that was published last, or has passed."""
    stream = group.names.copy_stream
    try:
        state = await stream_state(broker, stream)
    except PgfloError as error:
        if not is_missing(error):
            raise
        return False
    if state.last_seq < table.last_seq:
        return False
    message = await message_at(broker, stream, table.last_seq)
    if message is None:
        return True  # purged, since every sink has it
    header = _core.read_header(message.data)
    found = (header.relation_oid, header.snapshot_lsn, header.final)
    return found == (table.oid, table.snapshot_lsn, True)
