"""What replicator, workers and `status` tell each other: the values of a group's record.

Upstream: whoever owns a fact writes its record. Downstream: `record` stores them as JSON in a
bucket.
Invariant: what is read back has the declared types, or reading fails with BROKER_RECORD; unknown
fields of a newer version are passed over.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Any, Self

import orjson
from pydantic import TypeAdapter, ValidationError

from pgflo.errors import BROKER_RECORD, PgfloError


class Phase(enum.StrEnum):
    """Life of a group. Only its replicator moves it."""

    CREATING = "creating"
    """Slot, publication and streams are being made. Crash: begun again."""
    COPYING = "copying"
    """Tables are read in a snapshot; changes flow meanwhile."""
    STREAMING = "streaming"
    """Every range is published; only changes flow."""
    COPIED = "copied"
    """A copy without streaming: everything is published."""
    DONE = "done"
    """The replicator ended by itself at `final_lsn`."""


class TableState(enum.StrEnum):
    """Life of one table's copy."""

    WAITING = "waiting"
    """Nothing published under the present snapshot."""
    COPYING = "copying"
    """Ranges are being published."""
    PUBLISHED = "published"
    """Every range is in the broker."""
    READY = "ready"
    """Every registered sink has applied every range, or there was nothing to copy."""


ATTEMPTS_PER_RUN = 4096
"""An attempt's number is `run * ATTEMPTS_PER_RUN + n`: no two replicators share one."""


def run_of(attempt: int) -> int:
    """Tell in which run of the copy an attempt was made."""
    return attempt // ATTEMPTS_PER_RUN


class Stored:
    """A record that travels as JSON."""

    def to_json(self) -> bytes:
        """Encode for the bucket."""
        return orjson.dumps(self, option=orjson.OPT_NON_STR_KEYS)

    @classmethod
    def from_json(cls, value: bytes, *, key: str = "") -> Self:
        """Decode and check. Raises `PgfloError` (BROKER_RECORD) that names `key` and the field."""
        try:
            read: Self = _adapter(cls).validate_json(value)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(step) for step in first["loc"]) or "the whole"
            raise PgfloError(
                BROKER_RECORD,
                f"{key or cls.__name__} of the group's record: {place}: {first['msg']}",
                key=key,
            ) from None
        return read


_ADAPTERS: dict[str, TypeAdapter[Any]] = {}
"""Made on first use: they cost milliseconds each."""


def _adapter(cls: type) -> TypeAdapter[Any]:
    if cls.__name__ not in _ADAPTERS:
        _ADAPTERS[cls.__name__] = TypeAdapter(cls)
    return _ADAPTERS[cls.__name__]


@dataclass(frozen=True)
class SnapshotRecord:
    """The snapshot that a copy reads, and who holds it."""

    name: str
    """What copy processes import."""
    lsn: int
    """Its consistent point."""
    backend_pid: int
    """The holder's session at the source."""
    backend_start: str
    """When that session began: pids are used again."""
    pid: int
    """The holder's process, on `host`."""
    host: str


@dataclass(frozen=True)
class GroupRecord(Stored):
    """The group itself; key `group`."""

    incarnation: str
    system_id: str
    timeline: int
    database: str
    slot: str
    publications: list[str]
    options: dict[str, str]
    """Decoding options; ordinals mean nothing under others."""
    mode: str
    start_lsn: int
    """The slot's consistent point: changes begin at (start_lsn, 0)."""
    phase: Phase
    tables: list[int] = field(default_factory=list)
    """OIDs of the group's tables."""
    joining: list[int] = field(default_factory=list)
    """OIDs of tables that are being added; nothing is streamed meanwhile."""
    lanes: int = 0
    """Copy lanes that were ever in use."""
    copy_runs: int = 0
    """How often a replicator has begun to hand out ranges."""
    layout: int = 0
    """Grows when tables join or are copied anew; envelopes tell which one they were made under."""
    snapshot: SnapshotRecord | None = None
    """What is held while ranges are left."""
    final_lsn: int | None = None
    """All is published up to here and the replicator ended by itself."""


@dataclass(frozen=True)
class ColumnRecord:
    """A column of a table at the source."""

    name: str
    type_oid: int
    type_name: str
    typmod: int
    base_oid: int = 0
    """The type beneath domains, else the type itself; 0 in records that do not tell."""
    is_enum: bool = False
    category: str = ""
    """pg_type.typcategory: S are character strings."""


@dataclass(frozen=True)
class TailRecord:
    """The last range of a table that a copy lane has stored."""

    seq: int
    """Where the range ends in the copy stream."""
    range_no: int
    attempt: int


@dataclass(frozen=True)
class TypeRecord:
    """A type that only the source has, and what it is made of."""

    oid: int
    kind: str
    """`domain`, `array` or `composite`."""
    beneath: int
    """OID of a domain's base type, or of the type of an array's elements."""
    delimiter: str
    """What stands between the elements of an array."""
    attributes: list[tuple[str, int]] = field(default_factory=list)
    """Names and type OIDs of a composite type's."""


@dataclass(frozen=True)
class TableRecord(Stored):
    """One table and its copy; key `table.<oid>`."""

    oid: int
    schema: str
    name: str
    root: tuple[str, str] | None
    """Schema and name of the partitioned table that this is a leaf of."""
    columns: list[ColumnRecord]
    key: list[str]
    """Columns of the replica identity, in index order."""
    identity: str
    """pg_class.relreplident."""
    state: TableState
    snapshot_lsn: int = 0
    ranges: int = 0
    range_blocks: int = 0
    bytes: int = 0
    """Heap and TOAST when the ranges were cut."""
    run: int = 0
    """The run of the copy that owns this record: whoever belongs to an older one writes no more."""
    published: list[tuple[int, int]] = field(default_factory=list)
    """Ranges that are in the broker, as half-open spans."""
    published_ranges: int = 0
    published_rows: int = 0
    published_bytes: int = 0
    tails: dict[int, TailRecord] = field(default_factory=dict)
    """By lane. What a broker loses is an end: a lane that has its last range has all before it."""
    running_ranges: int = 0
    """Ranges that copy processes read."""
    bounds: str = ""
    """Which rows of its root it holds, as an SQL condition."""
    types: list[TypeRecord] = field(default_factory=list)
    """What the columns' types are made of, down to types that every server has."""
    types_layout: int = 0
    """The group's layout from which on `types` say what changes are made of."""
    estimated_rows: int | None = None
    """By the statistics that there were when the ranges were cut; None without any."""
    copy_s: float = 0.0
    """Seconds that its ranges were copied for, in all runs."""


@dataclass(frozen=True)
class ShardRecord:
    """What one shard of a sink has committed."""

    commit_lsn: int
    ordinal: int
    end_lsn: int


@dataclass(frozen=True)
class RuleRecord:
    """A rule or a route of a sink, and what it did since the sink knows it."""

    number: int
    """From 1, rules first and then routes, in the order of their files."""
    kind: str
    """filter, mask, regex, exclude_column or route."""
    table: str
    """schema.table at the source; * for all that have the column."""
    column: str
    """Of the source; empty for a route."""
    destination: str
    """Where a route leads; empty for a rule."""
    place: str
    """Where it is written."""
    dropped_rows: int = 0
    changed_rows: int = 0

    def goes_on(self, known: RuleRecord) -> bool:
        """Whether it is what `known` was, wherever that was written."""
        zeros: dict[str, Any] = {"place": "", "dropped_rows": 0, "changed_rows": 0}
        return replace(self, **zeros) == replace(known, **zeros)


@dataclass(frozen=True)
class SinkRecord(Stored):
    """A registered sink and how far it is; key `sink.<name>`. The truth is the sink's own row."""

    name: str
    kind: str
    incarnation: str
    commit_lsn: int
    ordinal: int
    end_lsn: int
    phase: str
    lane_seqs: dict[int, int] = field(default_factory=dict)
    """Lane → last sequence of the copy stream whose range is applied."""
    commit_time_us: int = 0
    """Of the last commit applied, µs since 2000-01-01."""
    updated_at: str = ""
    applied_changes: int = 0
    blocked_by: str = ""
    """A lock that the destination waits for, and who holds it; or a standby."""
    rule_counts: list[RuleRecord] = field(default_factory=list)
    """In the order of their numbers."""
    rule_digests: dict[str, list[str]] = field(default_factory=dict)
    """schema.table → digests of its rules, to tell what changed between two runs."""
    schema_parts: int = 0
    """Indexes, constraints and triggers that --target-sync-schema makes."""
    schema_parts_done: int = 0
    shards: list[ShardRecord] = field(default_factory=list)
    """In the order of their numbers, if there are several; the sink is where the smallest is."""


@dataclass(frozen=True)
class SequenceRecord:
    """Where a sequence of the source stands."""

    schema: str
    name: str
    table: tuple[str, str] | None
    """Schema and name of the table that owns it."""
    column: str
    increment: int
    cycles: bool
    last_value: int
    is_called: bool
    """False: `last_value` is the number that comes next."""

    @property
    def label(self) -> str:
        """schema.name, for people."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class SequencesRecord(Stored):
    """Some of the source's sequences, as they were read together; key `sequences.<chunk>`."""

    incarnation: str
    lsn: int
    """Every row that the source had committed by then has its number covered."""
    sequences: list[SequenceRecord]


@dataclass(frozen=True)
class CopiedRecord(Stored):
    """Which ranges of a table a sink has committed; key `copied.<sink>.<oid>`."""

    sink: str
    oid: int
    ranges: list[int]
    rows: int
    snapshot_lsn: int = 0
    """Of the copy that they belong to."""

    def has_all(self, table: TableRecord) -> bool:
        """Whether that is the whole table."""
        return self.snapshot_lsn == table.snapshot_lsn and len(self.ranges) >= table.ranges

    def by_range(self) -> dict[int, int]:
        """Give the ranges with their rows, of which only the sum is known: the first has them."""
        rows = dict.fromkeys(self.ranges, 0)
        if self.ranges:
            rows[self.ranges[0]] = self.rows
        return rows
