"""Everything that tells where a group is, read into one snapshot.

Upstream: `pgflo.cli.status`. Downstream: the group's record, the change stream, the source's slot.
Invariant: LSNs are text at this edge; lag is never negative, and unknown is None, never 0.

Lag in bytes is the WAL between a sink's position and the source's end of WAL (with the source at
hand) or the end of the change stream (without). Lag in seconds is the age of the oldest commit that
the broker holds and the sink has not applied: 0 as soon as there is none.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from pgflo import _core
from pgflo.broker import topology
from pgflo.broker.copy_progress import standing
from pgflo.broker.names import Names
from pgflo.broker.stored import is_missing
from pgflo.errors import GROUP_UNKNOWN, PgfloError
from pgflo.status import copying

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.broker.copy_progress import CopyProgress, TableProgress
    from pgflo.broker.record import GroupRecord, Record, SinkRecord, TableRecord
    from pgflo.broker.records import RuleRecord

log = structlog.get_logger("pgflo.status")

POSTGRES_EPOCH_S = 946_684_800
"""2000-01-01 in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """The source's log and the group's slot; slot fields are None when there is no slot."""

    current_lsn: str
    slot_active: bool | None
    confirmed_lsn: str | None
    wal_status: str | None
    retained_bytes: int | None
    """WAL that the slot keeps from being recycled."""


@dataclass(frozen=True, slots=True)
class StreamLook:
    """The change stream."""

    bytes: int
    max_bytes: int
    envelopes: int
    end_lsn: str | None
    """Everything committed up to here is in the broker."""


@dataclass(frozen=True, slots=True)
class TableLook:
    """The copy of one table."""

    name: str
    schema: str
    state: str
    ranges: int
    waiting_ranges: int
    copying_ranges: int
    """Being read at this moment, as the replicator said last."""
    published_ranges: int
    published_rows: int
    published_bytes: int
    bytes: int
    """Heap and TOAST at the source."""
    applied: dict[str, int]
    """Sink → ranges it has committed."""
    copied_rows: int
    """With those of ranges under way."""
    copied_bytes: int
    estimated_rows: int | None
    """Of the whole table."""
    fraction: float
    seconds: float
    rows_per_s: float | None
    bytes_per_s: float | None
    eta_s: float | None
    """0 when the table is published, None while it cannot be told."""


@dataclass(frozen=True, slots=True)
class CopyLook:
    """The copy of all tables, with ranges under way."""

    tables: int
    tables_done: int
    ranges: int
    ranges_done: int
    rows: int
    estimated_rows: int | None
    bytes: int
    source_bytes: int
    fraction: float
    seconds: float
    rows_per_s: float | None
    """At present; the mean when all is published."""
    bytes_per_s: float | None
    eta_s: float | None
    queued: tuple[str, ...]
    """Sessions of the source that wait for the copy's locks to go; others wait behind them."""


@dataclass(frozen=True, slots=True)
class HolderLook:
    """Who holds the snapshot and the locks of an unfinished copy."""

    backend_pid: int
    """Session at the source."""
    pid: int
    host: str


@dataclass(frozen=True, slots=True)
class ShardLook:
    """One of several shards and its distance; its place in the list is its number."""

    end_lsn: str
    commit_lsn: str
    ordinal: int
    lag_bytes: int | None


@dataclass(frozen=True, slots=True)
class SinkLook:
    """One sink and its distance."""

    name: str
    kind: str
    phase: str
    end_lsn: str
    commit_lsn: str
    ordinal: int
    lag_bytes: int | None
    lag_s: float | None
    applied_changes: int
    blocked_by: str
    """A lock at the destination and who holds it, or a standby; empty while it goes on."""
    schema_parts: int
    """Indexes, constraints and triggers that are made after the rows."""
    schema_parts_done: int
    updated_at: str
    rules: list[RuleRecord]
    """What each rule and each route did, also before the worker's last start."""
    shards: list[ShardLook]
    """Empty when there is one: it is where the sink is."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A group at one moment."""

    group: str
    mode: str
    phase: str
    incarnation: str
    database: str
    slot: str
    start_lsn: str
    final_lsn: str | None
    source: SourceState | None
    stream: StreamLook | None
    holder: HolderLook | None = None
    copy: CopyLook | None = None
    tables: list[TableLook] = field(default_factory=list)
    sinks: list[SinkLook] = field(default_factory=list)


async def gather(broker: Broker, record: Record, source_conninfo: str | None) -> Snapshot:
    """Read everything once. Raises GROUP_UNKNOWN, and what the broker raises.

    A source that cannot be asked is logged and left out.
    """
    found = await record.group()
    if found is None:
        raise PgfloError(
            GROUP_UNKNOWN,
            f"group {record.group_name} is being created",
            hint=f"Ask again soon: `pgflo status --group {record.group_name}`.",
            group=record.group_name,
        )
    group = found[0]
    names = Names(record.group_name, uuid.UUID(group.incarnation))
    source = None
    if source_conninfo is not None:
        try:
            source = await _source(source_conninfo, names)
        except PgfloError as error:
            # What the broker knows is worth seeing most of all when the source is away.
            log.warning("the source is left out", kind=error.kind.code, why=error.detail)
    stream = await _stream(broker, names)
    head_lsn = source.current_lsn if source else stream.end_lsn if stream else None
    sinks = await record.sinks()
    tables = {oid: table for oid, table in (await record.tables()).items() if oid in group.tables}
    applied = {name: await record.copied(name) for name in sinks}
    progress = await copying.look(record, group, tables.values())
    under_way = {table.oid: table for table in progress.tables} if progress else {}
    return Snapshot(
        group=record.group_name,
        mode=group.mode,
        phase=str(group.phase.value),
        incarnation=group.incarnation,
        database=group.database,
        slot=group.slot,
        start_lsn=_core.lsn_format(group.start_lsn),
        final_lsn=_core.lsn_format(group.final_lsn) if group.final_lsn is not None else None,
        source=source,
        stream=stream,
        holder=_holder(group),
        copy=_copy(progress) if progress else None,
        tables=[
            _table(
                table,
                under_way.get(table.oid) or standing(table),
                {
                    name: len(of[table.oid].ranges)
                    for name, of in applied.items()
                    if table.oid in of and of[table.oid].snapshot_lsn == table.snapshot_lsn
                },
            )
            for table in sorted(tables.values(), key=lambda t: (t.schema, t.name))
        ],
        sinks=[
            await _sink(broker, names, group, sink, head_lsn) for _, sink in sorted(sinks.items())
        ],
    )


def _holder(group: GroupRecord) -> HolderLook | None:
    held = group.snapshot
    return HolderLook(held.backend_pid, held.pid, held.host) if held is not None else None


def _copy(progress: CopyProgress) -> CopyLook:
    return CopyLook(
        tables=len(progress.tables),
        tables_done=progress.tables_done,
        ranges=progress.ranges,
        ranges_done=progress.ranges_done,
        rows=progress.rows,
        estimated_rows=progress.estimated_rows,
        bytes=progress.bytes,
        source_bytes=progress.source_bytes,
        fraction=round(progress.fraction, 4),
        seconds=round(progress.seconds, 3),
        rows_per_s=_rounded(progress.rows_per_s),
        bytes_per_s=_rounded(progress.bytes_per_s),
        eta_s=_rounded(progress.eta_s),
        queued=progress.queued,
    )


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)


def _table(table: TableRecord, progress: TableProgress, applied: dict[str, int]) -> TableLook:
    return TableLook(
        name=table.name,
        schema=table.schema,
        state=str(table.state.value),
        ranges=table.ranges,
        waiting_ranges=table.ranges - table.published_ranges - table.running_ranges,
        copying_ranges=table.running_ranges,
        published_ranges=table.published_ranges,
        published_rows=table.published_rows,
        published_bytes=table.published_bytes,
        bytes=table.bytes,
        applied=applied,
        copied_rows=progress.rows,
        copied_bytes=progress.bytes,
        estimated_rows=progress.estimated_rows,
        fraction=round(progress.fraction, 4),
        seconds=round(progress.seconds, 3),
        rows_per_s=_rounded(progress.rows_per_s),
        bytes_per_s=_rounded(progress.bytes_per_s),
        eta_s=_rounded(progress.eta_s),
    )


async def _sink(
    broker: Broker, names: Names, group: GroupRecord, sink: SinkRecord, head_lsn: str | None
) -> SinkLook:
    current = sink.incarnation == group.incarnation

    def lag_bytes(end_lsn: int) -> int | None:
        if head_lsn is None or not current:
            return None
        return max(0, _core.lsn_parse(head_lsn) - end_lsn)

    return SinkLook(
        name=sink.name,
        kind=sink.kind,
        phase=sink.phase if current else "waiting",
        end_lsn=_core.lsn_format(sink.end_lsn),
        commit_lsn=_core.lsn_format(sink.commit_lsn),
        ordinal=sink.ordinal,
        lag_bytes=lag_bytes(sink.end_lsn),
        lag_s=await _lag_s(broker, names, sink) if current else None,
        applied_changes=sink.applied_changes,
        blocked_by=sink.blocked_by if current else "",
        schema_parts=sink.schema_parts if current else 0,
        schema_parts_done=sink.schema_parts_done if current else 0,
        updated_at=sink.updated_at,
        rules=sink.rule_counts if current else [],
        shards=[
            ShardLook(
                end_lsn=_core.lsn_format(shard.end_lsn),
                commit_lsn=_core.lsn_format(shard.commit_lsn),
                ordinal=shard.ordinal,
                lag_bytes=lag_bytes(shard.end_lsn),
            )
            for shard in sink.shards
        ],
    )


async def _lag_s(broker: Broker, names: Names, sink: SinkRecord) -> float | None:
    """Give the age of the first envelope with a commit that the sink has not applied."""
    try:
        seq = await topology.locate(broker, names.changes_stream, (sink.commit_lsn, sink.ordinal))
        envelope = await topology.envelope_at(broker, names.changes_stream, seq)
    except PgfloError:
        return None  # the stream is being purged, or is gone
    if envelope is None or not envelope.header.changes or not envelope.header.commit_time_us:
        return 0.0
    committed_s = envelope.header.commit_time_us / 1e6 + POSTGRES_EPOCH_S
    return round(max(0.0, time.time() - committed_s), 3)


async def _stream(broker: Broker, names: Names) -> StreamLook | None:
    try:
        state = await topology.stream_state(broker, names.changes_stream)
        last = await topology.last_envelope(broker, names.changes_stream)
    except PgfloError as error:
        if is_missing(error):
            return None
        raise
    return StreamLook(
        bytes=state.bytes,
        max_bytes=state.max_bytes,
        envelopes=state.messages,
        end_lsn=_core.lsn_format(last.header.end_lsn) if last is not None else None,
    )


async def _source(conninfo: str, names: Names) -> SourceState:
    from pgflo.source.connection import application_name, connect

    query = (
        "SELECT pg_current_wal_lsn()::text, s.active, s.confirmed_flush_lsn::text, s.wal_status,"
        " (pg_current_wal_lsn() - s.restart_lsn)::bigint FROM (VALUES (1)) one"
        " LEFT JOIN pg_replication_slots s ON s.slot_name = %s"
    )
    async with await connect(conninfo, purpose=application_name(names.group, "status")) as conn:
        row: Any = await (await conn.execute(query, (names.slot,))).fetchone()
    return SourceState(*row)
