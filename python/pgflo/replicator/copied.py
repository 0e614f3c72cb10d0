"""Whether the broker still has what the ledger of the copy says it has, and whether all is needed.

Upstream: the tables' records, and what sinks say they have committed. Downstream: `renewal` copies
anew what is missing.
Invariant: a range that counts as published is either in the copy stream, or committed by every
registered sink. The broker acknowledges before its disk has the data: after a loss of power the end
of the stream may be gone while the record, which is another stream, says otherwise. What is lost is
always an end, so a lane's last range tells of its others; but lanes that noticed nothing may have
filled the gap since, so one lane does not tell of another.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

import structlog

from pgflo import _core, errors
from pgflo.broker.spans import numbers
from pgflo.broker.stored import is_missing, message_at, stream_state
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pgflo.broker.connection import Broker
    from pgflo.broker.records import CopiedRecord, TableRecord, TailRecord
    from pgflo.replicator.group import Group

log = structlog.get_logger("pgflo.replicator")

PAUSE_S = 1.0


async def lost_tables(broker: Broker, group: Group) -> list[TableRecord]:
    """Give the tables that must be copied anew since the broker lost ranges; mostly none."""
    waiting = await _waiting_tables(group, group.tables.values())
    if await _has_all(broker, group, waiting):
        return []
    log.warning(
        "the broker lost a part of the copy; tables that no sink has whole are copied anew",
        tables=", ".join(f"{table.schema}.{table.name}" for table in waiting),
    )
    return waiting


async def watch(
    broker: Broker, group: Group, tables: Callable[[], Collection[TableRecord]]
) -> NoReturn:
    """Look after every reconnect whether the broker still has what `tables` were given to it.

    An idle lane would not notice, and sinks would wait for ever for what it had published.
    Raises `PgfloError`: BROKER_WENT_BACK, and what reading the records raises for good.
    """
    reconnected = asyncio.Event()
    seen = broker.generation
    before: list[TableRecord] = []

    def note() -> None:
        nonlocal seen, before
        if broker.generation != seen:
            # At once: what lanes store from here on must not stand for what they had stored.
            seen, before = broker.generation, [*before, *tables()]
            reconnected.set()

    unwatch = broker.watch(note)
    try:
        while True:
            await reconnected.wait()
            reconnected.clear()
            looked_at, before = before, []
            try:
                is_whole = await _has_all(broker, group, await _waiting_tables(group, looked_at))
            except PgfloError as error:
                if not error.can_heal:
                    raise
                log.debug("the copy stream cannot be looked at yet", cause=error.detail)
                before = [*looked_at, *before]
                reconnected.set()
                await asyncio.sleep(PAUSE_S)
                continue
            if not is_whole:
                stream = group.names.copy_stream
                raise PgfloError(
                    errors.BROKER_WENT_BACK,
                    f"stream {stream} lost ranges of the copy that it had acknowledged",
                    stream=stream,
                )
    finally:
        unwatch()


async def _waiting_tables(group: Group, among: Collection[TableRecord]) -> list[TableRecord]:
    """Give the tables with ranges that a registered sink has not committed."""
    tables = [table for table in among if table.ranges]
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


async def _has_all(broker: Broker, group: Group, tables: Collection[TableRecord]) -> bool:
    """Whether the stream has the last range of every lane, or has passed it."""
    last: dict[int, tuple[TailRecord, TableRecord]] = {}
    for table in tables:
        for lane, tail in table.tails.items():
            if lane not in last or last[lane][0].seq < tail.seq:
                last[lane] = (tail, table)
    if not last:
        return True
    stream = group.names.copy_stream
    try:
        state = await stream_state(broker, stream)
    except PgfloError as error:
        if not is_missing(error):
            raise
        return False
    for tail, table in last.values():
        if state.last_seq < tail.seq:
            return False
        message = await message_at(broker, stream, tail.seq)
        if message is not None and not _ends(message.data, tail, table):
            return False
    return True  # what is not there was purged, since every sink has it


def _ends(data: bytes, tail: TailRecord, table: TableRecord) -> bool:
    header = _core.read_header(data)
    found = header.relation_oid, header.snapshot_lsn, header.range_no, header.attempt, header.final
    return found == (table.oid, table.snapshot_lsn, tail.range_no, tail.attempt, True)
