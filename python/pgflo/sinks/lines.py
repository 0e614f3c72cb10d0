"""Sinks that take JSON lines: everything of the contract but where the lines go.

Upstream: `pgflo.worker`. Downstream: `pgflo._core.JsonScribe`, which prints a whole body in one
call; an `Outlet`; `line_ranges` for copied rows.
Invariant: one outlet is open at a time. It keeps the position itself, or the group's record does:
then the sink stands where the record said when it was taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from pgflo import _core
from pgflo.errors import PgfloError
from pgflo.rules.destinations import destined
from pgflo.rules.spec import NOTHING, Spec
from pgflo.sinks.contract import Mark, Opening, Outlet, Progress, Stored, Taken
from pgflo.sinks.line_ranges import LineRanges
from pgflo.sinks.refusal import place, unprintable

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from pgflo.broker.records import TableRecord
    from pgflo.config.settings import WorkerSettings
    from pgflo.rules.bind import Bound
    from pgflo.sinks.contract import Body, Ranges, Start


Open = Callable[[Opening], Outlet]
Made = tuple[str, int, str, Sequence[tuple[str, int]]]
"""What a type is made of: kind, the type beneath, what stands between elements, attributes."""


@dataclass(frozen=True, slots=True)
class LineSink:
    """A sink around an outlet. Pickled: the outlet itself is made in the process that writes."""

    kind: str
    settings: WorkerSettings
    open: Open
    """A class or function of a module."""
    opening: Opening | None = None
    """Set by `take_over`, as is what follows."""
    stored: Stored = field(default_factory=lambda: Stored((0, 0), 0))
    keeps_position: bool = False
    """Whether the outlet does."""
    keys: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """By OID, for tables that send whole old rows: changes do not tell what their key is."""
    types: Mapping[int, Made] = field(default_factory=dict)
    """What types are made of that only the source has, by OID."""
    snapshots: Mapping[int, int] = field(default_factory=dict)
    spec: Spec = NOTHING

    most_copy_writers: ClassVar[int | None] = 1

    @property
    def group(self) -> str:
        """The group."""
        return self.settings.group

    @property
    def sink(self) -> str:
        """The name by which it is registered."""
        return self.settings.sink

    def take_over(self, start: Start, *, again: bool) -> Taken:  # noqa: ARG002 - the lease is enough
        """Ask the outlet where it stands, or take what the record says."""
        opening = Opening(self.settings, start.incarnation, start.start_lsn)
        with self.open(opening) as outlet:
            stored = outlet.stored()
        keeps_position = stored is not None
        if stored is None:
            stored = _recorded(start)
        keys = {
            to.oid: to.here(table.key)
            for table in start.tables
            if table.key
            for to in destined(table, start.bound)
        }
        sink = replace(
            self,
            opening=opening,
            stored=stored,
            keeps_position=keeps_position,
            keys=keys,
            types={
                made.oid: (made.kind, made.beneath, made.delimiter, made.attributes)
                for table in start.tables
                for made in table.types
            },
            snapshots=start.snapshots,
            spec=start.bound.spec if start.bound else NOTHING,
        )
        has_begun = stored.position == (start.start_lsn, 0) and not stored.ranges
        return Taken(sink, stored.position, stored.end_lsn, has_begun)

    def copied_ranges(self, incarnation: uuid.UUID) -> Ranges:  # noqa: ARG002 - it has only this one
        """Give what was found when it was taken over."""
        return {table: dict(ranges) for table, ranges in self.stored.ranges.items()}

    def targets(
        self,
        tables: Sequence[TableRecord],
        bound: Bound | None,  # noqa: ARG002 - compiled again where rows are printed
    ) -> dict[int, TableRecord]:
        """Give the tables: their lines go where all go."""
        return {table.oid: table for table in tables}

    def start_streaming(self, start_lsn: int) -> None:  # noqa: ARG002 - a position says enough
        """Tell the outlet, if that may be of use to it."""
        if self.opening is not None and self.keeps_position:
            with self.open(self.opening) as outlet:
                outlet.copied()

    def open_writer(self, shard: int) -> LineWriter:  # noqa: ARG002 - there is one
        """Open the outlet for changes."""
        outlet, scribe, held = self._open()
        return LineWriter(outlet, scribe, held)

    def open_ranges(self, number: int, incarnation: uuid.UUID) -> LineRanges:  # noqa: ARG002 - one
        """Open the outlet for ranges of a copy."""
        outlet, scribe, held = self._open()
        known = outlet.stored() or self.stored
        return LineRanges(outlet, scribe, held, known.ranges, self.spec)

    def _open(self) -> tuple[Outlet, _core.JsonScribe, Progress]:
        if self.opening is None:
            message = "the sink was not taken over"
            raise RuntimeError(message)
        outlet = self.open(self.opening)
        try:
            stored = outlet.stored() or self.stored
        except BaseException:
            outlet.close()
            raise
        incarnation = self.opening.incarnation
        scribe = _core.JsonScribe(
            self.group, incarnation.bytes, self.keys, self.types, marked=outlet.wants_requests
        )
        return outlet, scribe, Progress(0, incarnation, *stored.position, stored.end_lsn, 0)


def _recorded(start: Start) -> Stored:
    """Give what the group's record says."""
    if start.known is None:
        return Stored((start.start_lsn, 0), start.start_lsn)
    known = start.known
    return Stored((known.commit_lsn, known.ordinal), known.end_lsn, start.known_ranges)


@dataclass(slots=True)
class Written:
    """What a commit made durable."""

    changes: int = 0
    conflicts: dict[str, int] = field(default_factory=dict)


class LineWriter:
    """Changes into an outlet."""

    def __init__(self, outlet: Outlet, scribe: _core.JsonScribe, held: Progress) -> None:
        self.held = held
        self.idle_s = outlet.idle_s
        self._outlet = outlet
        self._scribe = scribe
        self._position = held.position
        self._written = Written()

    @property
    def position(self) -> tuple[int, int]:
        """Up to where lines are written, committed or not."""
        return self._position

    def write(self, bodies: Sequence[Body], *, is_divisible: bool) -> None:  # noqa: ARG002 - always
        """Print bodies, each in one call."""
        for body in bodies:
            try:
                events = self._scribe.changes(body.data, body.prev, self._position)
            except _core.DecodeError as error:
                raise unprintable(f"a change behind {_text(body.prev)}", error) from None
            if events.count:
                try:
                    self._outlet.write(events)
                except PgfloError as error:
                    place(error, events.data)
                    raise
            self._written.changes += events.count
            self._position = max(self._position, body.end)

    def commit(
        self,
        end: tuple[int, int],
        end_lsn: int,
        *,
        others: Sequence[Progress] = (),  # noqa: ARG002 - there is one shard
        assignment: str = "",  # noqa: ARG002
    ) -> Written:
        """Have all of it made durable."""
        self._position = max(self._position, end)
        self._outlet.commit(Mark(self._position, end_lsn))
        written, self._written = self._written, Written()
        return written

    def moved(self, position: tuple[int, int], end_lsn: int) -> None:  # noqa: ARG002 - only that
        """Take note of a position that somebody else has stored."""
        self._position = position

    def idle(self) -> None:
        """Let the outlet do what is due."""
        self._outlet.idle()

    def finish(self) -> None:
        """Let the outlet finish."""
        self._outlet.finish()

    def close(self) -> None:
        """Close the outlet."""
        self._outlet.close()


def _text(position: tuple[int, int]) -> str:
    return f"{_core.lsn_format(position[0])}:{position[1]}"
