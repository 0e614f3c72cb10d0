"""What the registered sinks have committed, as they tell it in the group's record.

Upstream: workers write `sink.<name>`. Downstream: the ledger (what is safe) and retention (what may
be purged).
Invariant: a sink that is registered, but has not begun this incarnation yet, stands at its start;
it holds everything back until it comes or is removed by `pgflo drop`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from pgflo.errors import PgfloError
from pgflo.supervisor.race import first_of

if TYPE_CHECKING:
    from pgflo.broker.record import Record
    from pgflo.broker.records import SinkRecord

log = structlog.get_logger("pgflo.replicator")

LOOK_INTERVAL_S = 0.25
"""Shortest time between two readings; a sink writes its record no more often."""

LEAVING = "stopping"
"""Phase of a sink that has applied its last change."""

BROKER_PAUSE_S = 1.0
"""Pause before asking a broker again that did not answer."""


class Sinks:
    """The registered sinks of one incarnation. `follow` keeps it up to date."""

    def __init__(self, record: Record, incarnation: str, start_lsn: int) -> None:
        self._record = record
        self._incarnation = incarnation
        self._start_lsn = start_lsn
        self._sinks: dict[str, SinkRecord] = {}
        self._late: set[str] = set()
        self._leaving: set[str] = set()
        self.leaving = asyncio.Event()
        """Set when a sink is about to stop: it waits for a last word about sequences."""

    async def follow(self) -> None:
        """Read the sinks' records whenever one changes. Never returns.

        While the broker is away, what was last read holds: positions only grow.
        """
        while True:
            changed = asyncio.Event()
            changed.set()
            try:
                await first_of(self._notice(changed), self._read(changed))
            except PgfloError as error:
                if not error.can_heal:
                    raise
                log.debug("reading the sinks waits for the broker", cause=error.detail)
            await asyncio.sleep(BROKER_PAUSE_S)

    async def look(self) -> None:
        """Read all sinks' records now."""
        self._sinks = await self._record.sinks()
        leaving = {name for name, sink in self._sinks.items() if sink.phase == LEAVING}
        if leaving - self._leaving:
            self.leaving.set()
        self._leaving = leaving
        self._tell_late()

    @property
    def any(self) -> bool:
        """Whether a sink is registered."""
        return bool(self._sinks)

    @property
    def end_lsn(self) -> int:
        """End of the last commit that every sink has; 0 without sinks."""
        return min((self._position(sink)[1] for sink in self._sinks.values()), default=0)

    @property
    def slowest(self) -> tuple[tuple[int, int], int] | None:
        """Position of the sink that is furthest behind and the last commit it has; None without."""
        return min((self._position(sink) for sink in self._sinks.values()), default=None)

    @property
    def position(self) -> tuple[int, int] | None:
        """The position that every sink has reached; None without sinks."""
        return self.slowest[0] if self.slowest else None

    async def wait_past(self, lsn: int, limit_s: float) -> tuple[tuple[int, int], int] | None:
        """Give `slowest` as soon as it has committed `lsn`; None when it has not in `limit_s`."""
        ends_at = time.monotonic() + limit_s
        await self.look()
        while (slowest := self.slowest) is not None:
            if slowest[1] >= lsn:
                return slowest
            if time.monotonic() > ends_at:
                break
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self.look()
        return None

    def lane_seq(self, lane: int) -> int:
        """Sequence up to which every sink has applied a copy lane; 0 without sinks."""
        return min(
            (
                sink.lane_seqs.get(lane, 0) if sink.incarnation == self._incarnation else 0
                for sink in self._sinks.values()
            ),
            default=0,
        )

    def _position(self, sink: SinkRecord) -> tuple[tuple[int, int], int]:
        if sink.incarnation != self._incarnation:
            return (self._start_lsn, 0), self._start_lsn
        return (sink.commit_lsn, sink.ordinal), sink.end_lsn

    async def _notice(self, changed: asyncio.Event) -> None:
        async for key in self._record.watch():
            if key.startswith("sink."):
                changed.set()

    async def _read(self, changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            await self.look()
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _tell_late(self) -> None:
        late = {name for name, sink in self._sinks.items() if sink.incarnation != self._incarnation}
        for name in late - self._late:
            log.info("a sink has not begun this incarnation yet; all is kept for it", sink=name)
        self._late = late
