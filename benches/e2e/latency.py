"""From the commit at the source to the row at the destination, under a steady light load.

Upstream: `pacing.py`. Downstream: `contenders.py`. The source tells when it committed
(`track_commit_timestamp`); a column that only the destination has tells by its default when the row
was written. Both clocks are this machine's. Invariant: every row of the measured time counts; those
of a warm-up second before it do not.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benches.e2e.bed import Bed, assert_equal, wait_for
from benches.e2e.contenders import Native, Pgflo, has_ended
from benches.e2e.observe import watched_native, watched_pgflo
from benches.e2e.pacing import Schedule, clients, insert_paced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import psycopg

    from benches.e2e.usage import Costs, Usage

LIMIT_S = 120.0
SOURCE_DB, NATIVE_DB, PGFLO_DB = "latency", "latency_native", "latency_pgflo"
TABLE = "events"
COLUMNS = ("id", "client", "note")
DEFINITION = "CREATE TABLE events (id bigint PRIMARY KEY, client int NOT NULL, note text NOT NULL)"
SEEN = "ALTER TABLE events ADD seen timestamptz NOT NULL DEFAULT clock_timestamp()"
WARM_UP_S = 1
COMMITTED = """
SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM events WHERE id >= 0
"""
WRITTEN = "SELECT id, extract(epoch FROM seen)::float8 FROM events WHERE id >= 0"


@dataclass(frozen=True)
class Delays:
    """What one contender needed, in milliseconds, and how far behind its schedule the load fell."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    load_late_ms: float
    costs: Costs

    def __str__(self) -> str:
        return (
            f"p50 {self.p50_ms:.1f}, p95 {self.p95_ms:.1f}, p99 {self.p99_ms:.1f},"
            f" max {self.max_ms:.1f} ms (load at most {self.load_late_ms:.0f} ms late)"
        )


@dataclass(frozen=True)
class Round:
    """Both contenders under the same load, one after the other."""

    changes: int
    native: Delays
    pgflo: Delays


def _fresh_tables(bed: Bed, target_db: str) -> None:
    bed.recreate(bed.source, SOURCE_DB)
    bed.recreate(bed.target, target_db)
    with bed.connect(bed.source, SOURCE_DB) as conn:
        conn.execute(DEFINITION)
    with bed.connect(bed.target, target_db) as conn:
        conn.execute(DEFINITION)
        conn.execute(SEEN)
        conn.execute("CHECKPOINT")


def _rows(conn: psycopg.Connection) -> int:
    row = conn.execute("SELECT count(*) FROM events").fetchone()
    assert row is not None
    return int(row[0])


def percentile(ordered: Sequence[float], share: float) -> float:
    """Give the smallest value that `share` of all values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _delays(bed: Bed, target_db: str, rows: int, late_s: float, costs: Costs) -> Delays:
    """Subtract by key."""
    with bed.connect(bed.source, SOURCE_DB) as conn:
        committed: dict[int, float] = dict(conn.execute(COMMITTED).fetchall())
    with bed.connect(bed.target, target_db) as conn:
        written: dict[int, float] = dict(conn.execute(WRITTEN).fetchall())
    assert committed.keys() == written.keys()
    assert len(written) == rows
    delays_ms = sorted((written[key] - committed[key]) * 1e3 for key in written)
    p50, p95, p99 = (percentile(delays_ms, share) for share in (0.5, 0.95, 0.99))
    return Delays(p50, p95, p99, delays_ms[-1], late_s * 1e3, costs)


def _measure(
    bed: Bed,
    target: psycopg.Connection,
    schedule: Schedule,
    watched: Callable[..., contextlib.AbstractContextManager[Usage]],
    has_failed: Callable[[], bool],
) -> Delays:
    """Warm up, run the load, wait for its last row, compare both sides.

    `watched` is called with the bench's own sessions.
    """
    warm_up = Schedule(-schedule.rate_per_s * WARM_UP_S, schedule.rate_per_s, WARM_UP_S)

    def wait_for_rows(rows: int) -> None:
        wait_for(lambda: _rows(target) == rows or has_failed(), limit_s=LIMIT_S, what="last row")

    with clients(bed, SOURCE_DB) as sessions:
        insert_paced(sessions, TABLE, warm_up)
        wait_for_rows(warm_up.rows)
        with watched(target, *sessions) as usage:
            late_s = insert_paced(sessions, TABLE, schedule)
            wait_for_rows(warm_up.rows + schedule.rows)
    assert_equal(bed, SOURCE_DB, target.info.dbname, (TABLE,), COLUMNS)
    return _delays(bed, target.info.dbname, schedule.rows, late_s, usage.costs())


@contextlib.contextmanager
def _subscribed(bed: Bed) -> Iterator[Native]:
    native = Native(bed, "bench_latency", SOURCE_DB, NATIVE_DB)
    native.publish((TABLE,))
    native.subscribe(copy_data=False, enabled=True)
    yield native
    native.remove()


def _native(bed: Bed, schedule: Schedule) -> Delays:
    _fresh_tables(bed, NATIVE_DB)
    with _subscribed(bed) as native, bed.connect(bed.target, NATIVE_DB) as target:
        return _measure(bed, target, schedule, partial(watched_native, native), lambda: False)


def _pgflo(bed: Bed, schedule: Schedule, number: int) -> Delays:
    _fresh_tables(bed, PGFLO_DB)
    ours = Pgflo(bed, f"latency_{number}", SOURCE_DB, PGFLO_DB)
    with bed.connect(bed.target, PGFLO_DB) as target:
        with ours.running("--stream", "--tables", TABLE) as processes:
            wait_for(
                lambda: ours.applied_lsn(target) > 0 or has_ended(processes),
                limit_s=60,
                what="pgflo's start",
            )
            delays = _measure(
                bed,
                target,
                schedule,
                partial(watched_pgflo, ours, processes),
                lambda: has_ended(processes),
            )
        ours.forget()
    return delays


def one_round(bed: Bed, schedule: Schedule, number: int) -> Round:
    """Let both follow the same load; who goes first alternates by round."""
    if number % 2:
        native = _native(bed, schedule)
        return Round(schedule.rows, native, _pgflo(bed, schedule, number))
    ours = _pgflo(bed, schedule, number)
    return Round(schedule.rows, _native(bed, schedule), ours)
