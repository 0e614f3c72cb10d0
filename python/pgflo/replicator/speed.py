"""How fast something grows at present: amounts per second over the last half minute.

Upstream: the copy's tally. Downstream: rates, and times that are left.
Invariant: pure, times are given in seconds of one clock; what shrinks (an attempt that broke) has
the rate 0; before there is enough to judge by, there is no rate.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 30.0
"""Long enough that ranges which end now and then do not make the rate jump."""

SPACING_S = 1.0
"""Shortest time between two samples that are kept."""

MEANINGFUL_S = 2.0
"""A rate over less than this says nothing of what comes."""


class Speed:
    """The rates of some amounts that grow together."""

    def __init__(self, now_s: float, *amounts: float) -> None:
        self._samples = deque([(now_s, amounts)])

    def note(self, now_s: float, *amounts: float) -> None:
        """Note how much there is by now."""
        if now_s - self._samples[-1][0] >= SPACING_S:
            self._samples.append((now_s, amounts))
        while len(self._samples) > 1 and self._samples[1][0] <= now_s - WINDOW_S:
            self._samples.popleft()

    def per_s(self, now_s: float, *amounts: float) -> tuple[float, ...] | None:
        """Give the rate of each amount; None before they mean anything."""
        since_s, former = self._samples[0]
        seconds = now_s - since_s
        if seconds < MEANINGFUL_S:
            return None
        return tuple(
            max(0.0, (now - then) / seconds) for now, then in zip(amounts, former, strict=True)
        )


def left_s(amount: float, per_s: float) -> float | None:
    """Give the time that an amount takes at a rate; None when it does not move."""
    return amount / per_s if per_s > 0 else None
