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
    waiting = await _waiting_if_lost(broker, group, group.tables.values())
    if waiting:
        log.warning(
            "the broker lost a part of the copy; tables that no sink has whole are copied anew",
            tables=", ".join(f"{table.schema}.{table.name}" for table in waiting),
        )
    return waiting


async def watch(
    broker: Broker,
    group: Group,
    tables: Callable[[], Collection[TableRecord]],
    looked_at_generation: int,
) -> NoReturn:
    """Look after every reconnect whether the broker still has what `tables` were given to it.

    An idle lane would not notice, and sinks would wait for ever for what it had published.
    `looked_at_generation` is the connection's when `lost_tables` last looked. Raises `PgfloError`:
    BROKER_WENT_BACK, and what reading the records raises for good.
    """
    losses = Losses(broker, tables, looked_at_generation)
    unwatch = broker.watch(losses.note)
    try:
        losses.note()
        while True:
            await losses.healed.wait()
            losses.healed.clear()
            while losses.states:
                if await _insist_on_look(broker, group, losses.states[0]):
                    stream = group.names.copy_stream
                    raise PgfloError(
                        errors.BROKER_WENT_BACK,
                        f"stream {stream} lost ranges of the copy that it had acknowledged",
                        stream=stream,
                    )
                del losses.states[0]
    finally:
        unwatch()


class Losses:
    """What was stored whenever a connection was lost, until that was looked at.

    Each state for itself, and taken at once: what lanes store from then on, through connections of
    their own, must not stand for what they had stored.
    """

    def __init__(
        self,
        broker: Broker,
        tables: Callable[[], Collection[TableRecord]],
        looked_at_generation: int,
    ) -> None:
        self.states: list[Collection[TableRecord]] = []
        self.healed = asyncio.Event()
        self._broker = broker
        self._tables = tables
        self._generation = looked_at_generation
        self._is_noted = False

    def note(self) -> None:
        """Hear of the connection. It may be told of a loss and a reconnect at once."""
        has_come_back = self._broker.generation != self._generation
        if (has_come_back or not self._broker.is_connected) and not self._is_noted:
            self.states.append(self._tables())
            self._is_noted = True
        if has_come_back:
            self._generation = self._broker.generation
            self._is_noted = False
            self.healed.set()


async def _insist_on_look(
    broker: Broker, group: Group, tables: Collection[TableRecord]
) -> list[TableRecord]:
    while True:
        try:
            return await _waiting_if_lost(broker, group, tables)
        except PgfloError as error:
            if not error.can_heal:
                raise
            log.debug("the copy stream cannot be looked at yet", cause=error.detail)
        await asyncio.sleep(PAUSE_S)


async def _waiting_if_lost(
    broker: Broker, group: Group, among: Collection[TableRecord]
) -> list[TableRecord]:
    """Give the tables with ranges that a registered sink lacks, if the broker lost any of them."""
    tables = [table for table in among if table.ranges]
    if not tables:
        return []
    copied = await _copied_by_sinks(group)
    waiting = [
        table
        for table in tables
        if not copied or not all(table.oid in of and of[table.oid].has_all(table) for of in copied)
    ]
    return [] if await _has_all(broker, group, waiting, copied) else waiting


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


async def _has_all(
    broker: Broker,
    group: Group,
    tables: Collection[TableRecord],
    copied: list[dict[int, CopiedRecord]],
) -> bool:
    """Whether the stream has the last range of every lane, or had it and a sink has it now."""
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
        # What is not there was purged with its lane when the sinks had it; but another lane may
        # have filled the gap of a loss, and been purged. Without sinks nobody can tell.
        is_there = (
            _ends(message.data, tail, table)
            if message is not None
            else not copied or any(_has(of, table, tail) for of in copied)
        )
        if not is_there:
            return False
    return True


def _has(copied: dict[int, CopiedRecord], table: TableRecord, tail: TailRecord) -> bool:
    of = copied.get(table.oid)
    return of is not None and of.snapshot_lsn == table.snapshot_lsn and tail.range_no in of.ranges


def _ends(data: bytes, tail: TailRecord, table: TableRecord) -> bool:
    try:
        header = _core.read_header(data)
    except _core.EnvelopeError:
        return False
    found = header.relation_oid, header.snapshot_lsn, header.range_no, header.attempt, header.final
    return found == (table.oid, table.snapshot_lsn, tail.range_no, tail.attempt, True)
