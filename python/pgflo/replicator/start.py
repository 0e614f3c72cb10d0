"""Where a connection to the source begins, and whether it may.

Upstream: the envelope that the change stream ends with. Downstream: stream starts the walsender and
the assembler there.
Invariant: nothing is streamed from a source, publication or slot that cannot give every change
behind the end of the change stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from pgflo import errors
from pgflo._core import lsn_format, lsn_parse
from pgflo.broker.topology import envelope_at
from pgflo.errors import PgfloError
from pgflo.source import publication, slot
from pgflo.source.connection import application_name, connect
from pgflo.source.walsender import WalSender

if TYPE_CHECKING:
    import psycopg

    from pgflo.broker.connection import Broker
    from pgflo.broker.topology import StoredEnvelope
    from pgflo.config.settings import ReplicateSettings
    from pgflo.replicator.group import Group
    from pgflo.replicator.ledger import Ledger
    from pgflo.replicator.sinks import Sinks
    from pgflo.source.slot import SlotState
    from pgflo.source.walsender import SystemIdentity

log = structlog.get_logger("pgflo.replicator")

SINKS_TELL_S = 10.0
"""How long sinks that live may take to tell where they stand after the broker lost it: they come
back, take over their destination and write their record. Less than a stop may take."""


@dataclass(frozen=True, slots=True)
class StartPoint:
    """Where the chain goes on: the position it ends at, and the last commit wholly in it."""

    position: tuple[int, int]
    end_lsn: int


async def starting_point(broker: Broker, group: Group, last: StoredEnvelope | None) -> StartPoint:
    """Tell where to go on behind `last`, the envelope that the change stream ends with.

    A body of several parts that is not whole counts as not there: the chain goes on from the
    envelope in front of its first part, and its parts are published again.
    """
    origin = StartPoint((group.value.start_lsn, 0), group.value.start_lsn)
    if last is None:
        return origin
    header = last.header
    if header.layout > group.value.layout:
        raise PgfloError(
            errors.BROKER_RECORD,
            "the broker lost the record of tables that joined the group or were copied anew: it"
            f" has layout {group.value.layout}, and the change stream layout {header.layout}",
            hint="`pgflo replicate --restart` copies the group anew.",
        )
    if header.part + 1 < header.parts:
        before = last.seq - header.part - 1
        whole = await envelope_at(broker, group.names.changes_stream, before) if before else None
        if whole is None:
            if (header.prev_commit_lsn, header.prev_ordinal) != origin.position:
                raise PgfloError(
                    errors.BROKER_GAP,
                    f"stream {group.names.changes_stream} ends inside a body of {header.parts} "
                    f"parts, and the envelope in front of it ({before}) is gone",
                )
            return origin
        header = whole.header
    return StartPoint((header.commit_lsn, header.ordinal), header.end_lsn)


async def past_the_loss(start: StartPoint, slot_lsn: int, sinks: Sinks) -> StartPoint:
    """Give where to go on when the slot has confirmed more than the change stream holds.

    The broker lost the end of the stream. If every registered sink has committed all that the slot
    confirmed, nothing is missing: the chain goes on at the sink that is furthest behind. Otherwise
    `start` is given back, and the slot's check refuses it. What the sinks told last may be lost as
    well, so they get time to tell it again.
    """
    if slot_lsn <= start.end_lsn:
        return start
    reached = await sinks.wait_past(slot_lsn, SINKS_TELL_S)
    if reached is None:
        return start
    position, end_lsn = reached
    log.warning(
        "the broker lost changes that every sink has; going on behind them",
        lost_from_lsn=lsn_format(start.end_lsn),
        lost_to_lsn=lsn_format(end_lsn),
    )
    return StartPoint(position, end_lsn)


@dataclass(frozen=True, slots=True)
class Connected:
    """A walsender that streams from `start` on."""

    walsender: WalSender
    start: StartPoint
    timeout_s: float
    """How long the source bears silence; 0: for ever."""
    target_lsn: int | None


async def connect_source(
    group: Group,
    settings: ReplicateSettings,
    ledger: Ledger,
    sinks: Sinks,
    start: StartPoint,
    target_lsn: int | None,
) -> Connected:
    """Connect, check everything, tell the ledger where the slot stands, and start to stream.

    `target_lsn` is where to end, if an earlier connection found that out already. Raises
    `PgfloError`.
    """
    conninfo = settings.source.conninfo.get_secret_value()
    walsender = await WalSender.open(conninfo, settings.group)
    try:
        identity = await walsender.identify()
        timeout_s = await walsender.timeout_s()
        async with await connect(
            conninfo, purpose=application_name(settings.group, "check")
        ) as conn:
            there = await slot.state(conn, group.value.slot)
            if there is not None:
                start = await past_the_loss(start, there.confirmed_lsn, sinks)
            found = await check_source(conn, identity, group, start)
            if target_lsn is None:
                target_lsn = await until_lsn(conn, settings.until, once=settings.once)
            if target_lsn is not None:
                # Before that, tables are copied that others have not come up to.
                target_lsn = max(target_lsn, group.newest_snapshot_lsn)
        ledger.begin(confirmed_lsn=found.confirmed_lsn, published_lsn=start.end_lsn)
        await walsender.start(
            group.value.slot, group.value.publications, start.end_lsn, group.value.options
        )
    except BaseException:
        await walsender.finish()
        raise
    log.info(
        "streaming",
        group=settings.group,
        start_lsn=lsn_format(start.end_lsn),
        confirmed_lsn=lsn_format(found.confirmed_lsn),
    )
    return Connected(walsender, start, timeout_s, target_lsn)


async def check_source(
    conn: psycopg.AsyncConnection[Any],
    identity: SystemIdentity,
    group: Group,
    start: StartPoint,
) -> SlotState:
    """Raise unless the source is the one we know and has everything behind `start`.

    Raises `PgfloError`: SOURCE_OTHER_SYSTEM, SOURCE_WENT_BACK, and those of `publication.check` and
    `slot.check`.
    """
    known = group.value
    here = (identity.system_id, identity.timeline, identity.database)
    if here != (known.system_id, known.timeline, known.database):
        raise PgfloError(
            errors.SOURCE_OTHER_SYSTEM,
            f"the group was made on system {known.system_id}, timeline {known.timeline}, database "
            f"{known.database}; this is {here[0]}, timeline {here[1]}, database {here[2]}",
        )
    if identity.flushed_lsn < start.end_lsn:
        raise PgfloError(
            errors.SOURCE_WENT_BACK,
            f"the source's WAL ends at {lsn_format(identity.flushed_lsn)}, before what was already "
            f"published: {lsn_format(start.end_lsn)}",
        )
    tables = {oid: f"{table.schema}.{table.name}" for oid, table in group.tables.items()}
    await publication.check(conn, known.publications, tables)
    return await slot.check(conn, known.slot, start.end_lsn)


_TARGET = """
SELECT pg_current_wal_insert_lsn()::text, pg_current_xact_id()::text
"""
# The transaction id is a write of its own: its commit record lies behind the LSN, so that the
# walsender gets there even if nobody else writes.


async def until_lsn(
    conn: psycopg.AsyncConnection[Any], until: str | None, *, once: bool
) -> int | None:
    """Resolve `--until` and `--once` to the LSN that must be reached; None: stream for ever."""
    if until is not None and until != "now":
        return lsn_parse(until)
    if until is None and not once:
        return None
    row = await (await conn.execute(_TARGET)).fetchone()
    if row is None:
        raise PgfloError(errors.SOURCE_FAILED, "the source does not tell where its WAL ends")
    log.info("streaming until what is there now is published", until_lsn=row[0])
    return lsn_parse(row[0])
