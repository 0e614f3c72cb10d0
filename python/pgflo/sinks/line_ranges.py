"""Copied rows as JSON lines: through the sink's rules, each destination under its own name.

Upstream: `lines`, which opens the outlet; a copy writer hands over the parts of ranges. Downstream:
`_core.CopyRewriter`, `_core.JsonRows`, the outlet.
Invariant: a range is committed with as many rows as the source counted, whatever rules left of
them; a row has the same id in every attempt under the same rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.rules.destinations import own, routed_to
from pgflo.rules.spec import compiled
from pgflo.sinks.contract import Mark
from pgflo.sinks.refusal import place, unprintable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgflo.broker.records import TableRecord
    from pgflo.rules.destinations import Destined
    from pgflo.rules.spec import Spec
    from pgflo.sinks.contract import Outlet, Progress, Range, Ranges, Ruled


class LineRanges:
    """Copied rows into an outlet."""

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
        self._rules = spec.compiled() if spec else None
        self._known = {(*table, number) for table, ranges in known.items() for number in ranges}
        self._range: Range | None = None
        self._printers: list[_core.JsonRows] = []
        """One for each destination that rules give the table."""
        self._rewriter: _core.CopyRewriter | None = None
        self._to_text: _core.BinaryToText | None = None

    def is_known(self, wanted: Range) -> bool:
        """Whether the range is committed."""
        return (wanted.oid, wanted.snapshot_lsn, wanted.range_no) in self._known

    def begin(self, wanted: Range, target: TableRecord, *, is_binary: bool) -> None:
        """Begin a range. Raises `_core.RulesError` where rules do not fit its table any more."""
        types = [column.type_oid for column in target.columns]
        names = [column.name for column in target.columns]
        self._to_text = _core.BinaryToText(types) if is_binary else None
        self._rewriter = None
        destinations = [own(target.oid, target.schema, target.name, target.root, names)]
        if self._rules is not None:
            program = compiled(self._rules, target)
            if not program.copies_as_is:
                self._rewriter = _core.CopyRewriter(program, len(self._rules.labels))
            destinations = [routed_to(route, names, target.root) for route in program.routes]
        self._printers = [
            self._printer(wanted, target, to, route) for route, to in enumerate(destinations)
        ]
        self._range = wanted

    def _printer(
        self, wanted: Range, target: TableRecord, to: Destined, route: int
    ) -> _core.JsonRows:
        types = {column.name: column.type_oid for column in target.columns}
        return self._scribe.rows(
            to.oid,
            to.schema,
            to.name,
            [(here, types[name]) for name, here in to.columns],
            to.here(target.key),
            snapshot_lsn=wanted.snapshot_lsn,
            range_no=wanted.range_no,
            source=(target.schema, target.name),
            route=route,
        )

    def write(self, rows: memoryview) -> None:
        """Print the rows that end in this piece."""
        wanted = self._begun()
        try:
            text = self._to_text.feed(rows) if self._to_text else rows
            pieces: Sequence[memoryview | bytes] = [text]
            if self._rewriter is not None:
                pieces = [data for data, _ in self._rewriter.feed(text)]
            lines = [
                printer.feed(piece) for printer, piece in zip(self._printers, pieces, strict=True)
            ]
        except _core.DecodeError as error:
            raise unprintable(f"a row of {_named(wanted)}", error) from None
        for events in lines:
            if not events.count:
                continue
            try:
                self._outlet.write(events)
            except PgfloError as error:
                place(error, events.data)
                raise

    def commit(self, total_rows: int) -> list[Ruled]:
        """Have the range made durable."""
        wanted = self._begun()
        counts: list[Ruled] = []
        try:
            if self._to_text is not None:
                self._to_text.finish()
            printed_rows = sum(printer.finish() for printer in self._printers)
            read_rows = printed_rows
            if self._rewriter is not None:
                read_rows, counts = self._rewriter.finish()
        except _core.DecodeError as error:
            raise unprintable(f"the last row of {_named(wanted)}", error) from None
        if read_rows != total_rows:
            raise PgfloError(
                errors.SINK_ROW_COUNT,
                f"{_named(wanted)}: {total_rows} rows were read, {read_rows} arrived",
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


def _named(wanted: Range) -> str:
    return f"range {wanted.range_no} of table {wanted.oid}"
