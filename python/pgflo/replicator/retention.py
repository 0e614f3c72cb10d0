"""Removes from the broker what every registered sink has applied.

Upstream: positions of the sinks. Downstream: the group's two streams.
Invariant: nothing is purged that a registered sink has not committed, and without sinks nothing is.
The last envelope stays, and so does the one before what is purged up to: if a body of several parts
is cut off in the middle, the chain goes on from the envelope in front of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

import structlog

from pgflo.broker.topology import locate, purge_through, stream_state
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.config.settings import NatsSettings
    from pgflo.replicator.sinks import Sinks

log = structlog.get_logger("pgflo.replicator")

INTERVAL_S = 2.0
"""Seconds between two rounds. A full stream waits this long at most for what could be purged."""

SAMPLES = 60
"""Positions remembered over the time of `--retain`: purging lags behind it by a 60th at most."""

CROWDED = 0.75
"""From this share of the stream's ceiling on, applied envelopes are not kept for `--retain`."""


class Retention:
    """Purges both streams of one incarnation in rounds."""

    def __init__(
        self, broker: Broker, names: Names, settings: NatsSettings, sinks: Sinks, lanes: int
    ) -> None:
        self._broker = broker
        self._names = names
        self._settings = settings
        self._sinks = sinks
        self._lanes = lanes
        self._purged_lanes: dict[int, int] = {}
        self._passed: deque[tuple[float, tuple[int, int]]] = deque()
        self._purged: tuple[int, int] | None = None

    async def run(self) -> None:
        """Purge for ever. A broker that does not answer is asked again in the next round."""
        while True:
            try:
                await self._purge_lanes()
                await self._purge_changes()
            except PgfloError as error:
                if not error.can_heal:
                    raise
                log.debug("purging waits for the broker", cause=error.detail)
            await asyncio.sleep(INTERVAL_S)

    async def _purge_lanes(self) -> None:
        for lane in range(self._lanes):
            seq = self._sinks.lane_seq(lane)
            if seq > self._purged_lanes.get(lane, 0):
                subject = self._names.copy_subject(lane)
                await purge_through(self._broker, self._names.copy_stream, seq, subject=subject)
                self._purged_lanes[lane] = seq

    async def _purge_changes(self) -> None:
        position = self._sinks.position
        if position is None:
            self._passed.clear()
            return
        now = time.monotonic()
        self._remember(now, position)
        if await self._is_crowded():
            self._passed.clear()
            target: tuple[int, int] | None = position
        else:
            target = self._outlived(now)
        if target is None or (self._purged is not None and target <= self._purged):
            return
        stream = self._names.changes_stream
        last_applied_seq = await locate(self._broker, stream, target) - 1
        await purge_through(self._broker, stream, last_applied_seq - 1)
        self._purged = target

    def _remember(self, now: float, position: tuple[int, int]) -> None:
        step_s = self._settings.retain_s / SAMPLES
        if not self._passed or (
            position > self._passed[-1][1] and now - self._passed[-1][0] >= step_s
        ):
            self._passed.append((now, position))

    def _outlived(self, now: float) -> tuple[int, int] | None:
        """Give the latest position that the sinks had passed `--retain` ago."""
        target = None
        while self._passed and now - self._passed[0][0] >= self._settings.retain_s:
            target = self._passed.popleft()[1]
        return target

    async def _is_crowded(self) -> bool:
        state = await stream_state(self._broker, self._names.changes_stream)
        return state.bytes >= CROWDED * self._settings.stream_max_bytes
