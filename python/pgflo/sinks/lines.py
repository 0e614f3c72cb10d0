"""Sinks that take JSON lines: everything of the contract but where the lines go.

Upstream: `pgflo.worker`. Downstream: `pgflo._core.JsonScribe`, which prints a whole body in one
call; an `Outlet`.
Invariant: one outlet is open at a time. It keeps the position itself, or the group's record does:
then the sink stands where the record said when it was taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.rules.bind import compiled
from pgflo.rules.destinations import destined
from pgflo.rules.spec import NOTHING, Spec
from pgflo.sinks.contract import Mark, Opening, Outlet, Progress, Stored, Taken

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence

    from pgflo.broker.records import TableRecord
    from pgflo.config.settings import WorkerSettings
    from pgflo.rules.bind import Bound
    from pgflo.rules.destinations import Destined
    from pgflo.sinks.contract import Body, Range, Ranges, Ruled, Start


@dataclass(frozen=True, slots=True)
class Target:
    """A table that is copied, and where its rows go."""

    table: TableRecord
    destinations: tuple[Destined, ...]
    is_ruled: bool
    """Whether rows go through rules; else they pass as they came."""

    @property
    def snapshot_lsn(self) -> int:
        """The snapshot whose ranges are wanted."""
        return self.table.snapshot_lsn


Open = Callable[[Opening], Outlet]


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
            snapshots=start.snapshots,
            spec=NOTHING if start.bound is None else start.bound.spec,
        )
        has_begun = stored.position == (start.start_lsn, 0) and not stored.ranges
        return Taken(sink, stored.position, stored.end_lsn, has_begun)

    def copied_ranges(self, incarnation: uuid.UUID) -> Ranges:  # noqa: ARG002 - it has only this one
        """Give what was found when it was taken over."""
        return {table: dict(ranges) for table, ranges in self.stored.ranges.items()}

    def targets(self, tables: Sequence[TableRecord], bound: Bound | None) -> dict[int, Target]:
        """Tell what rules make of the tables: their lines go where all go."""
        return {
            table.oid: Target(
                table,
                destined(table, bound),
                is_ruled=bound is not None and not bound.programs[table.oid].copies_as_is,
            )
            for table in tables
        }

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
            self.group, incarnation.bytes, self.keys, marked=outlet.wants_requests
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
        """Up to where lines are written, committed or not."""
        self._written = Written()

    @property
    def position(self) -> tuple[int, int]:
        """Up to where lines are written."""
        return self._position

    def write(self, bodies: Sequence[Body], *, is_divisible: bool) -> None:  # noqa: ARG002 - always
        """Print bodies, each in one call."""
        for body in bodies:
            try:
                events = self._scribe.changes(body.data, body.prev, self._position)
            except _core.DecodeError as error:
                raise _unprintable(f"a change behind {_text(body.prev)}", error) from None
            if events.count:
                self._outlet.write(events)
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


class LineRanges:
    """Copied rows into an outlet, through the sink's rules."""

    def __init__(
        self,
        outlet: Outlet,
        scribe: _core.JsonScribe,
        held: Progress,
        known: Ranges,
        spec: Spec,
    ) -> None:
        self._outlet = outlet
        self._scribe = scribe
        self._held = held
        self._known = {(*table, number) for table, ranges in known.items() for number in ranges}
        self._rules = spec.compiled() if spec else None
        self._range: Range | None = None
        self._rows: list[_core.JsonRows] = []
        """One for each destination."""
        self._to_text: _core.BinaryToText | None = None
        self._rewriter: _core.CopyRewriter | None = None

    def is_known(self, wanted: Range) -> bool:
        """Whether the range is committed."""
        return (wanted.oid, wanted.snapshot_lsn, wanted.range_no) in self._known

    def begin(self, wanted: Range, target: Target, *, is_binary: bool) -> None:
        """Begin a range."""
        table = target.table
        types = {column.name: column.type_oid for column in table.columns}
        self._to_text = _core.BinaryToText(list(types.values())) if is_binary else None
        self._rewriter = None
        if target.is_ruled and self._rules is not None:
            program = compiled(self._rules, table)
            self._rewriter = _core.CopyRewriter(program, len(self._rules.labels))
        self._rows = [
            self._scribe.rows(
                to.oid,
                to.schema,
                to.name,
                [(here, types[there]) for there, here in to.columns],
                to.here(table.key),
                snapshot_lsn=wanted.snapshot_lsn,
                range_no=wanted.range_no,
            )
            for to in target.destinations
        ]
        self._range = wanted

    def write(self, rows: memoryview) -> None:
        """Print the rows that end in this piece."""
        wanted = self._begun()
        text = self._to_text.feed(rows) if self._to_text else rows
        pieces = [text] if self._rewriter is None else [d for d, _ in self._rewriter.feed(text)]
        for scribe, piece in zip(self._rows, pieces, strict=True):
            try:
                events = scribe.feed(piece)
            except _core.DecodeError as error:
                raise _unprintable(f"a row of {_named(wanted)}", error) from None
            if events.count:
                self._outlet.write(events)

    def commit(self, total_rows: int) -> list[Ruled]:
        """Have the range made durable."""
        wanted = self._begun()
        try:
            if self._to_text is not None:
                self._to_text.finish()
            printed = sum(scribe.finish() for scribe in self._rows)
        except _core.DecodeError as error:
            raise _unprintable(f"the last row of {_named(wanted)}", error) from None
        read, counts = (printed, []) if self._rewriter is None else self._rewriter.finish()
        if read != total_rows:
            raise PgfloError(
                errors.SINK_ROW_COUNT,
                f"{_named(wanted)}: {total_rows} rows were read, {read} arrived",
            )
        self._outlet.commit(Mark(self._held.position, self._held.end_lsn, wanted, total_rows))
        self._known.add((wanted.oid, wanted.snapshot_lsn, wanted.range_no))
        self._range = None
        return counts

    def abandon(self) -> None:
        """Have what is written of the range forgotten, if that is possible."""
        if self._range is not None:
            self._range = None
            self._outlet.roll_back()

    def close(self) -> None:
        """Close the outlet."""
        self._outlet.close()

    def _begun(self) -> Range:
        if self._range is None:
            message = "no range is begun"
            raise RuntimeError(message)
        return self._range


def _unprintable(what: str, error: _core.DecodeError) -> PgfloError:
    return PgfloError(errors.SINK_REFUSED, f"{what} cannot be printed as JSON: {error}")


def _named(wanted: Range) -> str:
    return f"range {wanted.range_no} of table {wanted.oid}"


def _text(position: tuple[int, int]) -> str:
    return f"{_core.lsn_format(position[0])}:{position[1]}"
