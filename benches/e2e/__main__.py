"""`python -m benches.e2e`: print copy and backlog against native replication, round by round.

Exit 1 when the median ratio misses a bar, so that a slower build cannot pass unseen.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys

from benches.e2e import backlog, copy
from benches.e2e.bed import Bed, servers

BARS = {"copy": 0.6, "pgbench": 0.5, "mixed": 0.5}
"""Least acceptable ratio native seconds / pgflo seconds: above 1, pgflo is the faster one."""


def _say(text: str) -> None:
    print(text, flush=True)


def _verdict(name: str, ratios: list[float]) -> bool:
    median = statistics.median(ratios)
    passed = median >= BARS[name]
    rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    _say(
        f"  {name}: median {median:.2f} x native (rounds {rounds}; bar {BARS[name]:.1f})"
        f" {'ok' if passed else 'MISSED'}"
    )
    return passed


def run_copy(bed: Bed, options: argparse.Namespace) -> bool:
    """Copy the same table by turns and print each round."""
    _say(f"copy of one table, {options.rows} rows, {options.workers} copy workers")
    copy.prepare(bed, options.rows)
    ratios = []
    for number in range(1, options.rounds + 1):
        native_s = copy.native_round(bed)
        pgflo_s, usage = copy.pgflo_round(bed, options.rows, options.workers, number)
        ratios.append(native_s / pgflo_s)
        _say(f"  round {number}: native {native_s:.2f} s, pgflo {pgflo_s:.2f} s\n{usage}")
    return _verdict("copy", ratios)


def run_backlog(bed: Bed, name: str, load: backlog.Load, rounds: int) -> bool:
    """Let both empty the same backlog and print each round."""
    _say(f"backlog, {load.name}")
    ratios = []
    for number in range(1, rounds + 1):
        result = backlog.one_round(bed, load, number)
        ratios.append(result.native_s / result.pgflo_s)
        _say(
            f"  round {number}: {result.changes} changes,"
            f" native {result.native_s:.2f} s ({result.changes / result.native_s:.0f}/s),"
            f" pgflo {result.pgflo_s:.2f} s ({result.changes / result.pgflo_s:.0f}/s)\n"
            f"{result.usage}"
        )
    return _verdict(name, ratios)


def main() -> int:
    """Run what was asked for and return the exit code."""
    parser = argparse.ArgumentParser(prog="benches.e2e", description=__doc__)
    parser.add_argument("what", nargs="*", choices=("copy", "pgbench", "mixed"), default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--scale", type=int, default=50)
    parser.add_argument("--transactions", type=int, default=60_000)
    parser.add_argument("--mixed-transactions", type=int, default=10_000)
    options = parser.parse_args()
    wanted = options.what or ["copy", "pgbench", "mixed"]
    passed = True
    with servers() as bed:
        with bed.connect(bed.source, "postgres") as conn:
            _say(f"PostgreSQL {conn.info.server_version}, {platform.machine()}, default durability")
        if "copy" in wanted:
            passed &= run_copy(bed, options)
        if "pgbench" in wanted:
            load = backlog.pgbench_load(
                scale=options.scale, clients=8, transactions=options.transactions
            )
            passed &= run_backlog(bed, "pgbench", load, options.rounds)
        if "mixed" in wanted:
            load = backlog.mixed_load(transactions=options.mixed_transactions)
            passed &= run_backlog(bed, "mixed", load, options.rounds)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
