"""The LSN ledger. Always: confirmed_lsn <= safe_lsn <= published_lsn <= received_lsn.

received_lsn   end of the last WAL byte that the walsender has decoded for us (memory only)
published_lsn  commit end of the last envelope that JetStream stored (acknowledgement seen)
safe_lsn       committed by every registered sink, or held by the broker for longer than the horizon
confirmed_lsn  what PostgreSQL may recycle; the only one it ever hears

Upstream: stream reports what it reads, the publisher what is stored, sinks what they committed.
Downstream: walsender sends `confirmed_lsn` in its status messages, and nothing else ever does.
A crash at any line replays at most received - confirmed bytes; the stored position of the change
stream, and after it that of each sink, drops the repeats change by change.

PostgreSQL accepts the confirmation of an LSN it has not sent yet, and then drops the commits in
between without an error. So nothing beyond the end of a stored envelope is ever confirmed.
Pure: no input or output, the clock is a parameter.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

HORIZON_STEP_S = 0.5
"""Envelopes stored within this many seconds share one entry of the horizon queue, at the time of
the last: what is held back is held a little longer, and 150 s of horizon need at most 301
entries."""

WATERMARK_INTERVAL_S = 10.0
"""At most one watermark in this many seconds bounds the WAL an idle group pins."""

WATERMARK_BYTES = 16 * 1024 * 1024
"""One WAL segment. A busy neighbour database makes watermarks sooner than the interval does."""


class ConfirmAfter(enum.StrEnum):
    """What makes a position safe."""

    AUTO = "auto"
    """The sinks' commits or the broker's horizon, whichever comes first."""
    SINK = "sink"
    """Only the commits of every registered sink: the broker is a cache that may be lost whole."""
    BROKER = "broker"
    """The broker's acknowledgement."""


class _Held(NamedTuple):
    """What the broker stored between two moments; its age counts from the later one."""

    first_at: float
    last_at: float
    end_lsn: int


class LedgerError(RuntimeError):
    """The order of the four LSNs would break: a mistake in this program, never the outside's."""


class Ledger:
    """The four LSNs and the only ways in which they move. Outlives connections."""

    def __init__(
        self, confirm_after: ConfirmAfter, horizon_s: float, clock: Callable[[], float]
    ) -> None:
        self._confirm_after = confirm_after
        self._horizon_s = horizon_s
        self._clock = clock
        self._held: deque[_Held] = deque()
        self._horizon_lsn = 0
        self._sinks_lsn = 0
        self._watermark_at = clock()
        self.received_lsn = 0
        self.published_lsn = 0
        self.confirmed_lsn = 0

    def begin(self, *, confirmed_lsn: int, published_lsn: int) -> None:
        """Start a connection at what the slot has confirmed and the change stream holds.

        What was received but not published is forgotten. What the stream held before keeps its age,
        unless the stream now ends earlier. Raises `LedgerError` when the slot is ahead.
        """
        if confirmed_lsn > published_lsn:
            raise LedgerError("the slot is ahead of the change stream")
        if published_lsn < self.published_lsn:
            self._held.clear()
        self.received_lsn = self.published_lsn = published_lsn
        self._horizon_lsn = min(self._horizon_lsn, published_lsn)
        self.confirmed_lsn = confirmed_lsn
        self._hold(published_lsn)
        self._check()

    def receive(self, lsn: int) -> None:
        """Note that everything up to `lsn` is decoded. Older values are ignored."""
        self.received_lsn = max(self.received_lsn, lsn)

    def publish(self, end_lsn: int) -> None:
        """Note that the broker stored an envelope whose last complete commit ends at `end_lsn`.

        Called in stream order. Raises `LedgerError` for an LSN that was never received.
        """
        if end_lsn > self.received_lsn:
            raise LedgerError("an envelope ends beyond what was received")
        if end_lsn > self.published_lsn:
            self.published_lsn = end_lsn
            self._hold(end_lsn)

    def commit_by_sinks(self, end_lsn: int) -> None:
        """Note what every registered sink has durably committed (0: no sink is registered)."""
        self._sinks_lsn = end_lsn

    @property
    def safe_lsn(self) -> int:
        """What may be confirmed now."""
        if self._confirm_after is ConfirmAfter.BROKER:
            return self.published_lsn
        safe_lsn = self._sinks_lsn
        if self._confirm_after is ConfirmAfter.AUTO:
            safe_lsn = max(safe_lsn, self._past_horizon())
        return max(self.confirmed_lsn, min(safe_lsn, self.published_lsn))

    def confirm(self) -> int:
        """Move `confirmed_lsn` to what is safe and give it."""
        self.confirmed_lsn = max(self.confirmed_lsn, self.safe_lsn)
        self._check()
        return self.confirmed_lsn

    def wants_watermark(self, idle_lsn: int) -> bool:
        """Whether it is time to publish that nothing came up to `idle_lsn`."""
        ahead_bytes = idle_lsn - self.published_lsn
        waited_s = self._clock() - self._watermark_at
        return ahead_bytes > 0 and (
            waited_s >= WATERMARK_INTERVAL_S or ahead_bytes >= WATERMARK_BYTES
        )

    def watermark_made(self) -> None:
        """Start the interval to the next watermark."""
        self._watermark_at = self._clock()

    def _hold(self, end_lsn: int) -> None:
        now = self._clock()
        first_at = now
        if self._held and now - self._held[-1].first_at < HORIZON_STEP_S:
            first_at = self._held.pop().first_at
        self._held.append(_Held(first_at, now, end_lsn))

    def _past_horizon(self) -> int:
        limit = self._clock() - self._horizon_s
        while self._held and self._held[0].last_at <= limit:
            self._horizon_lsn = max(self._horizon_lsn, self._held.popleft().end_lsn)
        return self._horizon_lsn

    def _check(self) -> None:
        if not self.confirmed_lsn <= self.published_lsn <= self.received_lsn:
            raise LedgerError("confirmed_lsn <= published_lsn <= received_lsn does not hold")
