"""What a timed piece costs: peak memory and CPU seconds by role, sampled while it runs.

Upstream: `observe.py`. Downstream: `processes.py`, `roles.py`. Memory is resident memory (RSS, the
kernel's high-water mark), for a server's own processes private memory, because shared buffers would
be counted in each of them. Invariant: what a process did before the piece is not counted, and one
that ends before the piece does is counted up to its last sample.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benches.e2e import roles
from benches.e2e.processes import forget_peak, look, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SAMPLE_S = 0.1
"""Pause between samples, in seconds: what a process does after its last sample is not seen."""
MB = 1_000_000


@dataclass(frozen=True)
class Root:
    """A process whose tree is watched."""

    pid: int
    role_of: Callable[[str], str | None]
    """From a title; None for a process that is not counted."""
    shares_buffers: bool = False
    """A PostgreSQL server: only private memory is counted."""


@dataclass
class _Seen:
    """One process: where it stood at the first sample, and where at the last."""

    role: str | None
    shares_buffers: bool
    base_cpu_s: float
    cpu_s: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Cost:
    """What the processes of one role cost."""

    processes: int
    peak_bytes: int
    """Of the largest of them."""
    cpu_s: float


Costs = dict[str, Cost]


@dataclass
class Usage:
    """Samples of everything below `roots`; sessions of the bench itself are `ignored`."""

    roots: Sequence[Root]
    ignored: frozenset[int]
    _seen: dict[tuple[int, int], _Seen] = field(default_factory=dict)

    def begin(self) -> None:
        """Take off what was used so far; for a process that comes later, that is nothing."""
        for root in self.roots:
            if not root.shares_buffers:
                for pid in tree(root.pid):
                    forget_peak(pid)
            self._sample_tree(root, is_base=True)

    def sample(self) -> None:
        """Look once at every process."""
        for root in self.roots:
            self._sample_tree(root, is_base=False)

    def _sample_tree(self, root: Root, *, is_base: bool) -> None:
        for pid in tree(root.pid):
            now = None if pid in self.ignored else look(pid)
            if now is None:
                continue
            key = (pid, now.started)
            if key not in self._seen:
                base_cpu_s = now.cpu_s if is_base else 0.0
                self._seen[key] = _Seen(None, root.shares_buffers, base_cpu_s)
            seen = self._seen[key]
            if now.title:  # one that has just ended keeps the title it had
                seen.role = root.role_of(now.title)
            seen.cpu_s = now.cpu_s - seen.base_cpu_s
            memory = now.private_bytes if root.shares_buffers else now.peak_rss_bytes
            seen.peak_bytes = max(seen.peak_bytes, memory)

    def costs(self) -> Costs:
        """Add up by role."""
        by_role: dict[str, list[_Seen]] = defaultdict(list)
        for seen in self._seen.values():
            if seen.role is not None:
                by_role[seen.role].append(seen)
        return {
            role: Cost(
                len(all_seen),
                max(seen.peak_bytes for seen in all_seen),
                sum(seen.cpu_s for seen in all_seen),
            )
            for role, all_seen in by_role.items()
        }


@contextlib.contextmanager
def sampled(usage: Usage) -> Iterator[None]:
    """Sample until the block ends, and once more then."""
    done = threading.Event()

    def loop() -> None:
        while not done.wait(SAMPLE_S):
            usage.sample()

    usage.begin()
    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        usage.sample()


def lines(costs: Mapping[str, Cost], changes: int) -> str:
    """Print a line per role: peak memory, CPU seconds, CPU seconds per million changes."""
    rows = []
    for role in sorted(costs, key=lambda role: (roles.place(role), role)):
        cost = costs[role]
        name = role if cost.processes == 1 else f"{role} x {cost.processes}"
        rows.append(
            f"      {name:<26} {cost.peak_bytes / MB:6.0f} MB {cost.cpu_s:8.2f} s CPU"
            f" {cost.cpu_s / changes * 1e6:8.2f} s per million"
        )
    return "\n".join(rows)


def over_rounds(rounds: Sequence[tuple[Costs, int]]) -> str:
    """Print the largest peak of all rounds, and the median CPU seconds per million changes."""
    names = {role for costs, _ in rounds for role in costs}
    rows = []
    for role in sorted(names, key=lambda role: (roles.place(role), role)):
        each = [(costs[role], changes) for costs, changes in rounds if role in costs]
        peak_mb = max(cost.peak_bytes for cost, _ in each) / MB
        median_s = statistics.median(cost.cpu_s / changes * 1e6 for cost, changes in each)
        rows.append(f"      {role:<26} {peak_mb:6.0f} MB {median_s:8.2f} s CPU per million")
    return "\n".join(rows)
