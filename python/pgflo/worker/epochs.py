"""Cuts the change stream into epochs: checks the chain, joins parts, decides where to commit.

Upstream: `dispatcher` puts in every envelope that the broker delivers. Downstream: it takes out
`Cut`s and sends them to the writer.
Invariants: nothing is cut out that does not join what came before; a cut that commits ends where no
transaction is open; what is put in comes out once and in order.

Where an envelope stands is compared with its `transaction_open`: an envelope may hold nothing but
the COMMIT of the changes before it, and end at the same position, now closed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgflo import _core, errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    import uuid

    from pgflo._core import Header

Place = tuple[int, int, bool]
"""(commit_lsn, ordinal, whether the transaction is complete)"""


@dataclass(frozen=True, slots=True)
class Unit:
    """A whole logical body: one envelope, or all parts of one."""

    envelopes: tuple[bytes, ...]
    header: Header
    seq: int
    """Stream sequence of its last envelope."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Units to be applied in one go."""

    units: tuple[Unit, ...]
    commits: bool
    """False: the rest of a transaction larger than an epoch follows."""

    @property
    def last(self) -> Header:
        """Where it ends."""
        return self.units[-1].header

    @property
    def commit_time_us(self) -> int:
        """Time of the last commit in it, µs since 2000-01-01; 0 if it has none."""
        return max(unit.header.commit_time_us for unit in self.units)


class Epochs:
    """The envelopes received and not yet cut.

    Memory: `epoch_bytes` and one unit, if it is emptied when `is_full`.
    """

    def __init__(
        self,
        incarnation: uuid.UUID,
        position: tuple[int, int],
        *,
        epoch_bytes: int,
        epoch_changes: int,
        is_start: bool,
        is_open: bool = False,
    ) -> None:
        """Continue behind `position`; `is_open`: inside a transaction, else where one ended.

        An epoch ends at the next commit after either limit. A transaction larger than that is cut
        by `epoch_bytes` alone: each piece costs a savepoint, and their number is what hurts.
        """
        self._incarnation = incarnation
        self._place: Place = (*position, not is_open)
        self._is_start = is_start
        self._epoch_bytes = epoch_bytes
        self._epoch_changes = epoch_changes
        self._units: deque[Unit] = deque()
        self._bytes = 0
        self._changes = 0
        self._commits = 0
        """Units that end where no transaction is open."""
        self._parts: list[bytes] = []

    def put(self, data: bytes, seq: int) -> Header:
        """Take the next envelope and give its header; one that is known already is dropped.

        Raises `PgfloError` SINK_CHAIN_GAP or SINK_LATE where something is missing before it, and
        `EnvelopeError` for a damaged one.
        """
        header = _core.read_header(data)
        self._check(header)
        end: Place = (header.commit_lsn, header.ordinal, not header.transaction_open)
        if end <= self._place:
            return header
        if header.part == 0:
            # Also after a publisher that died between parts: it begins the body again.
            self._parts.clear()
        elif header.part != len(self._parts):
            raise self._gap(header, f"part {header.part} follows part {len(self._parts) - 1}")
        self._parts.append(data)
        if header.part + 1 < header.parts:
            return header
        size_bytes = sum(map(len, self._parts))
        self._units.append(Unit(tuple(self._parts), header, seq, size_bytes))
        self._parts.clear()
        self._bytes += size_bytes
        self._changes += header.changes
        self._commits += not header.transaction_open
        self._place = end
        self._is_start = False
        return header

    @property
    def is_full(self) -> bool:
        """Whether an epoch's worth of changes waits."""
        return self._bytes >= self._epoch_bytes or (
            self._commits > 0 and self._changes >= self._epoch_changes
        )

    def cut(self) -> Cut | None:
        """Take out the next epoch: up to the last commit within its limits.

        If no commit lies within them: a full epoch's worth of an open transaction. None if only the
        beginning of a transaction waits.
        """
        size_bytes = changes = closed = taken = 0
        for unit in self._units:
            taken += 1
            size_bytes += unit.size_bytes
            changes += unit.header.changes
            if not unit.header.transaction_open:
                closed = taken
            if size_bytes >= self._epoch_bytes or (closed and changes >= self._epoch_changes):
                break
        if not closed and size_bytes < self._epoch_bytes:
            return None
        units = tuple(self._units.popleft() for _ in range(closed or taken))
        self._bytes -= sum(unit.size_bytes for unit in units)
        self._changes -= sum(unit.header.changes for unit in units)
        self._commits -= sum(not unit.header.transaction_open for unit in units)
        return Cut(units, commits=closed > 0)

    def _check(self, header: Header) -> None:
        if header.incarnation != self._incarnation.bytes:
            raise self._gap(header, "it is of another incarnation")
        if (header.prev_commit_lsn, header.prev_ordinal) > self._place[:2]:
            raise self._gap(
                header,
                f"it begins behind {_text((header.prev_commit_lsn, header.prev_ordinal))}",
            )

    def _gap(self, header: Header, why: str) -> PgfloError:
        kind = errors.SINK_LATE if self._is_start else errors.SINK_CHAIN_GAP
        return PgfloError(
            kind,
            f"the envelope that ends at {_text((header.commit_lsn, header.ordinal))} does not join"
            f" {_text(self._place[:2])}, where this sink stands: {why}",
            position=_text(self._place[:2]),
        )


def _text(position: tuple[int, int]) -> str:
    return f"{_core.lsn_format(position[0])}:{position[1]}"
