"""What a sink is: the contract between the worker and whatever takes a group's rows and changes.

Upstream: `pgflo.worker`, which reads the broker, cuts epochs and keeps the group's record.
Downstream: one package or module per kind of sink; `postgres` implements `Sink` itself, sinks that
take JSON lines implement `Outlet` and leave the rest to `lines`.

What it receives. Changes come as `Body`s: whole bodies of the change stream, still encoded
(pgoutput messages, each behind its length). Copied rows come as pieces of COPY, in text or binary.
Changes have been through the sink's rules; to copied rows the sink applies them itself.
An epoch is one or more `write`s and a `commit`. A transaction of the source that is larger than an
epoch is written piece by piece; its commit comes with the last one.

What returning means. From `write`: nothing; the worker goes on and may never commit. From
`commit`: everything written since the last commit is durable, and so is the position that the sink
will say it has when it is taken over the next time. The worker then acknowledges, and what was
acknowledged is not kept for this sink. A sink that cannot keep a position of its own stands where
the group's record says; that is written behind the commit, so after a crash the last changes come
again, under the same ids.

Duplicates. A body may begin before the sink's position. What lies at or before it must have no
effect; the change behind it is the next. Bodies that were written and not committed come again.

Order. Calls for one shard never overlap and come in the order of the source's commits. Shards run
side by side, each in a process of its own; only the PostgreSQL sink has more than one. Ranges of a
copy come in any order, each whole, all before the first change.

Refusal. Raising `PgfloError` refuses everything since the last commit. Its kind says whether
waiting helps: then the worker takes the sink over again after a pause and starts behind its
position; otherwise it stops with the kind's exit code. No text of an error holds a row's values;
the beginning of what a webhook's receiver answered is told as it is. What an `Outlet` raises from
`write`, not from `commit`, gets table and position of the first of its lines, unless it tells a
position. Any other exception is a defect: the process ends with a traceback.

Position. `(commit_lsn, ordinal)` of the last change that is committed. `end_lsn` is what the source
may forget up to once all sinks have it.

One at a time. The worker holds the sink's lease. A former worker that does not know that it lost it
must be unable to commit: by a fence (PostgreSQL), by a lock (file), or not at all, where repeats
are allowed anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from pgflo import errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence

    from pgflo._core import Events
    from pgflo.broker.records import SinkRecord, TableRecord
    from pgflo.config.settings import WorkerSettings
    from pgflo.rules.bind import Bound
    from pgflo.rules.spec import Spec

Ranges = dict[tuple[int, int], dict[int, int]]
"""(oid of the table, LSN of the snapshot) → number of a committed range → its rows."""


Ruled = tuple[int, int, int]
"""What a rule did: its number, rows dropped, rows changed."""


@dataclass(frozen=True, slots=True)
class Body:
    """One logical body of the change stream: the changes behind position `prev`, up to `end`."""

    data: bytes | memoryview
    prev: tuple[int, int]
    end: tuple[int, int]
    end_lsn: int
    changes: int
    is_closed: bool
    """No transaction continues behind it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a shard is, and by which fence it holds that. `position` is what it has committed."""

    shard: int
    incarnation: uuid.UUID
    commit_lsn: int
    ordinal: int
    end_lsn: int
    fence: int

    @property
    def position(self) -> tuple[int, int]:
        """(commit_lsn, ordinal)."""
        return self.commit_lsn, self.ordinal


@dataclass(frozen=True, slots=True)
class Range:
    """One attempt at a range of a copy."""

    oid: int
    snapshot_lsn: int
    range_no: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Start:
    """The group as a worker finds it when it takes its sink over."""

    incarnation: uuid.UUID
    start_lsn: int
    tables: Sequence[TableRecord]
    is_copied: bool
    """Whether rows come before changes."""
    snapshots: Mapping[int, int]
    """By OID, of copies that are younger than the change stream's start."""
    known: SinkRecord | None
    """What the group's record says of this sink in this incarnation."""
    known_ranges: Ranges
    """The same of the copy."""
    bound: Bound | None = None
    """The sink's rules, compiled for these tables; None: there are none."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A sink that was taken over."""

    sink: Sink
    """To go on with."""
    position: tuple[int, int]
    end_lsn: int
    has_begun: bool
    """Whether it stands at the group's start for the first time."""


class Applied(Protocol):
    """What a commit made durable."""

    @property
    def changes(self) -> int:
        """Changes in it."""
        ...

    @property
    def conflicts(self) -> Mapping[str, int]:
        """Rows that were not as the source's changes said, by kind."""
        ...


class Target(Protocol):
    """Where the rows of a table go; what more there is to it is the sink's to know."""

    @property
    def snapshot_lsn(self) -> int:
        """The snapshot whose ranges are wanted."""
        ...


class Writer(Protocol):
    """One shard, in a process of its own. After any exception only `close` is called."""

    @property
    def idle_s(self) -> float | None:
        """Pause after which `idle` is called when nothing comes; None: never."""
        ...

    @property
    def held(self) -> Progress:
        """What it had when it was opened."""
        ...

    @property
    def position(self) -> tuple[int, int]:
        """Up to where changes were written, committed or not."""
        ...

    def write(self, bodies: Sequence[Body], *, is_divisible: bool) -> None:
        """Take bodies that follow each other.

        `is_divisible`: part of them may become visible before the rest.
        """
        ...

    def commit(
        self,
        end: tuple[int, int],
        end_lsn: int,
        *,
        others: Sequence[Progress] = (),
        assignment: str = "",
    ) -> Applied:
        """Make everything since the last commit durable, and `end` with it.

        `others`: shards whose changes were among it. `assignment`: to be stored with it.
        """
        ...

    def moved(self, position: tuple[int, int], end_lsn: int) -> None:
        """Take note that another shard has moved this one's position."""
        ...

    def idle(self) -> None:
        """Do what is due when nothing comes."""
        ...

    def finish(self) -> None:
        """Take note that nothing more comes, since the worker was asked to stop or has all."""
        ...

    def close(self) -> None:
        """Let go; what is not committed is gone, or comes again."""
        ...


class RangeWriter(Protocol):
    """Takes ranges of a copy, one at a time, in a process of its own."""

    def is_known(self, wanted: Range) -> bool:
        """Whether the range is committed already."""
        ...

    def begin(self, wanted: Range, target: Any, *, is_binary: bool) -> None:  # noqa: ANN401 - its own
        """Begin a range that is not known, whose rows come in this format of COPY."""
        ...

    def write(self, rows: memoryview) -> None:
        """Take a piece of the rows; pieces may end inside a row."""
        ...

    def commit(self, total_rows: int) -> Sequence[Ruled]:
        """Make the range durable; tell what rules did to its rows.

        Raises SINK_ROW_COUNT where other than so many rows came.
        """
        ...

    def abandon(self) -> None:
        """Undo what is begun, if anything is; the range comes again."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Sink(Protocol):
    """A sink as the worker's processes share it: settings and where it stands. Is pickled.

    All methods may block; the worker calls them in threads. They raise `PgfloError` alone.
    """

    @property
    def kind(self) -> str:
        """What the group's record calls it."""
        ...

    @property
    def most_copy_writers(self) -> int | None:
        """Processes that may take ranges side by side; None: as many as the user wants."""
        ...

    @property
    def group(self) -> str:
        """The group."""
        ...

    @property
    def sink(self) -> str:
        """The name by which it is registered."""
        ...

    @property
    def snapshots(self) -> Mapping[int, int]:
        """Those of `Start`: changes of these tables that are older are kept away from writers."""
        ...

    @property
    def spec(self) -> Spec:
        """Rules that changes go through before a writer gets them."""
        ...

    def take_over(self, start: Start, *, again: bool) -> Taken:
        """Find where it stands, and keep every former worker from moving it.

        `again`: this run has taken it over before, so that it must still be ours.
        """
        ...

    def copied_ranges(self, incarnation: uuid.UUID) -> Ranges:
        """Tell which ranges are committed."""
        ...

    def targets(self, tables: Sequence[TableRecord], bound: Bound | None) -> Mapping[int, Target]:
        """Find where the rows of tables go by these rules, by OID at the source."""
        ...

    def start_streaming(self, start_lsn: int) -> None:
        """Take note that every row of the copy is there."""
        ...

    def open_writer(self, shard: int) -> Writer:
        """Open a shard for changes, in the process that will write it."""
        ...

    def open_ranges(self, number: int, incarnation: uuid.UUID) -> RangeWriter:
        """Open for ranges of a copy, in the process that will write them."""
        ...


def superseded(group: str, sink: str) -> PgfloError:
    """Say that another worker has the sink now."""
    return PgfloError(
        errors.GROUP_SUPERSEDED,
        f"another worker of sink {sink} has taken over group {group}",
        group=group,
        sink=sink,
    )


# --- sinks that take lines


@dataclass(frozen=True, slots=True)
class Opening:
    """What an `Outlet` is opened with."""

    settings: WorkerSettings
    incarnation: uuid.UUID
    """Begin anew, beside what there is, when it is another than the stored one."""
    start_lsn: int

    @property
    def group(self) -> str:
        """The group."""
        return self.settings.group

    @property
    def sink(self) -> str:
        """The name by which the sink is registered."""
        return self.settings.sink


@dataclass(frozen=True, slots=True)
class Mark:
    """What a commit leads to."""

    position: tuple[int, int]
    end_lsn: int
    range: Range | None = None
    """The range of the copy that ends here."""
    rows: int = 0
    """Its rows."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What an outlet that keeps its own position has committed."""

    position: tuple[int, int]
    end_lsn: int
    ranges: Ranges = field(default_factory=dict)


class Outlet:
    """Where JSON lines go: the base of a sink in user code. Its methods may block.

    One is open at a time, in one process of the worker; its calls never overlap. What they mean is
    told above. An entry point of the group `pgflo.sinks` names a subclass, or anything else that
    takes an `Opening` and gives an `Outlet`.
    """

    wants_requests: ClassVar[bool] = False
    """Whether `Events.requests` will be called."""
    idle_s: ClassVar[float | None] = None
    """Pause after which `idle` is called when nothing comes; None: never."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening

    def stored(self) -> Stored | None:
        """Tell what is committed; None: this outlet keeps no position, the group's record does."""
        return None

    def write(self, events: Events) -> None:
        """Take lines, at least one."""
        raise NotImplementedError

    def commit(self, mark: Mark) -> None:
        """Make all lines since the last commit durable, and `mark` with them."""

    def copied(self) -> None:
        """Take note that every row of the copy is there. Called again after each start.

        Only for an outlet that keeps its own position.
        """

    def roll_back(self) -> None:
        """Forget what was written since the last commit, if that is possible: it comes again."""

    def idle(self) -> None:
        """Do what is due when nothing comes."""

    def finish(self) -> None:
        """Take note that nothing more comes, since the worker was asked to stop or has all."""

    def close(self) -> None:
        """Let go."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
