"""What a run has to reach, and whether it did.

Upstream: `__main__.py`. Invariant: a median decides, and a bar that is missed is printed where it
is missed and again at the end.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RATIO_BARS = {"copy": 1.0, "copy8": 1.0, "pgbench": 2.0, "mixed": 1.3, "rules": 0.8}
"""Least acceptable ratio native seconds / pgflo seconds: above 1, pgflo is the faster one.
Of rules: seconds without them / seconds with them."""
RATE_BARS = {
    "stdout, from the source": 150_000.0,
    "stdout": 150_000.0,
    "file": 150_000.0,
    "webhook": 20_000.0,
}
"""Least acceptable changes per second into a sink, from the broker if nothing else is said. Not a
ratio, so it depends on the machine; this is for 2 cores of the year 2026."""
LATENCY_BARS_MS = {"p50": 10.0, "p99": 50.0}
"""From commit at the source to the row at the destination."""
MEMORY_BAR_MB = 200.0
"""Peak resident memory of any process of ours during a transaction of any size."""
GROWTH_BAR_MB = 30.0
"""Peak resident memory of a process may so much exceed that of a tenth of the work: epochs are full
then, and what was freed is not returned at once."""


def say(text: str) -> None:
    """Print at once: a run takes minutes."""
    print(text, flush=True)


@dataclass
class Verdicts:
    """Judges each figure and remembers what was missed."""

    missed: list[str] = field(default_factory=list)

    def _judge(self, text: str, *, passed: bool) -> None:
        say(f"  {text} {'ok' if passed else 'MISSED'}")
        if not passed:
            self.missed.append(text)

    def ratio(self, name: str, ratios: Sequence[float], *, than: str = "native") -> None:
        """Hold the median of the rounds against the bar of `name`."""
        median, bar = statistics.median(ratios), RATIO_BARS[name]
        rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        self._judge(
            f"{name}: median {median:.2f} x {than} (rounds {rounds}; bar {bar:.1f})",
            passed=median >= bar,
        )

    def rate(self, name: str, rates_per_s: Sequence[float]) -> None:
        """Hold the median of the rounds against the bar of the sink `name`."""
        median, bar = statistics.median(rates_per_s), RATE_BARS[name]
        rounds = ", ".join(f"{rate:.0f}" for rate in rates_per_s)
        self._judge(
            f"{name}: median {median:.0f} changes/s (rounds {rounds}; bar {bar:.0f})",
            passed=median >= bar,
        )

    def latency(self, rounds_ms: Mapping[str, Sequence[float]]) -> None:
        """Hold the median of each percentile over the rounds against its bar."""
        for name, bar_ms in LATENCY_BARS_MS.items():
            median_ms = statistics.median(rounds_ms[name])
            rounds = ", ".join(f"{one_ms:.1f}" for one_ms in rounds_ms[name])
            self._judge(
                f"latency {name}: median {median_ms:.1f} ms (rounds {rounds}; bar {bar_ms:.0f} ms)",
                passed=median_ms <= bar_ms,
            )

    def memory(self, name: str, peaks_mb: Mapping[str, float]) -> None:
        """Hold the largest process against the bar."""
        role = max(peaks_mb, key=lambda role: peaks_mb[role])
        self._judge(
            f"{name}: largest process {role}, {peaks_mb[role]:.0f} MB (bar {MEMORY_BAR_MB:.0f} MB)",
            passed=peaks_mb[role] <= MEMORY_BAR_MB,
        )

    def flat(
        self, name: str, before_mb: Mapping[str, float], after_mb: Mapping[str, float]
    ) -> None:
        """Hold the peaks of a large piece of work against those of a small one, role by role."""
        role = max(before_mb, key=lambda role: after_mb[role] - before_mb[role])
        self._judge(
            f"{name}: memory grows most in {role}, from {before_mb[role]:.0f} to"
            f" {after_mb[role]:.0f} MB (bar {GROWTH_BAR_MB:.0f} MB more)",
            passed=after_mb[role] - before_mb[role] <= GROWTH_BAR_MB,
        )

    def promise(self, text: str, *, kept: bool) -> None:
        """Hold what has no number."""
        self._judge(text, passed=kept)

    def finish(self) -> int:
        """Name every bar that was missed, and return the exit code."""
        for text in self.missed:
            say(f"missed: {text}")
        return 1 if self.missed else 0
