"""How long the socket is left to fill before it is read again.

Upstream: the intake tells what it took, and asks when nothing more was there. Downstream: asyncio's
clock.
Invariant: a source that says little is read and published at once. One that keeps coming is read in
gulps: a reader that follows it message by message costs the walsender half as much CPU again, since
each of its sends wakes somebody, and the slot has but one walsender.
"""

from __future__ import annotations

CUT_SPACING_S = 0.002
"""Shortest time between two envelopes that are not full: a fast source would make thousands of tiny
ones a second."""

GULP_S = 0.020
"""Wait between two reads of a source that keeps coming. It is also what this adds to the latency of
a change then, at most; the socket's buffer holds more than what comes meanwhile."""

DENSE_BYTES_PER_S = 8_000_000
"""A source that brings so much in two windows of `CUT_SPACING_S` and more keeps coming."""

STILL_DENSE_BYTES_PER_S = 3_000_000
"""Less than this in a gulp, and it does so no longer."""


class Pace:
    """Decides between at once and in gulps. Pure: times are given, in seconds of one clock."""

    def __init__(self) -> None:
        self._window_began_s = 0.0
        self._came_bytes = 0
        self._came_much = False
        self._is_dense = False

    def took(self, size_bytes: int) -> None:
        """Count what was read."""
        self._came_bytes += size_bytes

    def wait_s(self, now_s: float, cut_at_s: float) -> float:
        """Tell how long to wait before the next read, all that was there being taken.

        Not above 0: publish what is pending now. `cut_at_s`: when the last envelope went out.
        """
        window_s = now_s - self._window_began_s
        if window_s >= CUT_SPACING_S:
            self._judge(self._came_bytes / window_s)
            self._window_began_s, self._came_bytes = now_s, 0
        return GULP_S if self._is_dense else cut_at_s + CUT_SPACING_S - now_s

    def _judge(self, bytes_per_s: float) -> None:
        if self._is_dense:
            self._is_dense = bytes_per_s >= STILL_DENSE_BYTES_PER_S
        else:
            # Once may be a single transaction, which is to be published at its end.
            comes_much = bytes_per_s >= DENSE_BYTES_PER_S
            self._is_dense = comes_much and self._came_much
            self._came_much = comes_much
