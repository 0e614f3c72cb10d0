"""One comparison from beginning to end.

Upstream: `pgflo compare` and the demo. Downstream: a `Comparison`, equal or not.
Invariant: "equal" is said only of tables whose counts and hashes were both equal. Tables that
differ while the source is being written are looked at again after waiting, a few times.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgflo import _core
from pgflo.compare import digest, plan, sessions, wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgflo.config.settings import SourceSettings

ROUNDS = 3
"""Looks at a table that differs while the source goes on writing."""


@dataclass(frozen=True, slots=True)
class Result:
    """One table: equal when `reason` is None."""

    table: str
    source_rows: int | None
    target_rows: int | None
    reason: str | None

    @property
    def equal(self) -> bool:
        """Whether both sides have the same rows."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All tables, and the source's position that the destination covered (None: not waited for)."""

    tables: list[Result]
    lsn: str | None
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether every table is equal."""
        return all(result.equal for result in self.tables)


async def compare(
    source: SourceSettings,
    target: str,
    *,
    group: str | None,
    sink: str | None,
    timeout_s: float,
    told: Callable[[str], None],
) -> Comparison:
    """Compare.

    `told` hears what is being done. Raises what connecting, waiting and reading raise.
    """
    started = time.monotonic()
    async with sessions.opened(source.conninfo.get_secret_value(), target) as sides:
        if group is not None and not source.tables:
            names = await plan.published_tables(sides.source, group)
        else:
            names = await plan.matching_tables(sides.source, source)
        lsn = 0
        results: dict[str, Result] = {}
        pairs = await plan.pairs(sides, names)
        for _ in range(ROUNDS):
            if group is not None:
                told(f"waiting until the destination has what group {group} has at the source")
                lsn = await wait.until_covered(sides, group, sink, timeout_s)
            for pair in pairs:
                told(f"comparing {pair.title}")
                results[pair.title] = await _compare_pair(sides, pair)
            pairs = [pair for pair in pairs if not results[pair.title].equal]
            moving = group is not None and await wait.position(sides.source) > lsn + QUIET_BYTES
            if not pairs or not moving:
                break
    covered = _core.lsn_format(lsn) if lsn else None
    return Comparison(list(results.values()), covered, round(time.monotonic() - started, 3))


QUIET_BYTES = 4096
"""Log that an idle source writes by itself (checkpoints, snapshots of running transactions)."""


async def _compare_pair(sides: sessions.Sides, pair: plan.Pair) -> Result:
    if pair.source is None or pair.target is None:
        rows = await digest.count(sides.source, pair.source) if pair.source is not None else None
        return Result(pair.title, rows, None, pair.problem)
    if pair.problem is not None:
        return Result(
            pair.title,
            await digest.count(sides.source, pair.source),
            await digest.count(sides.target, pair.target),
            pair.problem,
        )
    left, right = await digest.digests(sides, pair)
    reason = None
    if left.rows != right.rows:
        reason = "number of rows differs"
    elif left.hash != right.hash:
        reason = "values differ"
    return Result(pair.title, left.rows, right.rows, reason)
