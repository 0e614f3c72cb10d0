"""What the demo measures: how far the copy is, and how long a commit takes to arrive.

Upstream: the demo. Downstream: its terminal output.
Invariant: figures come from the servers, not from pgflo's own counters: rows that the destination
has committed, and the time from a commit at the source to the moment the destination covers it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg

from pgflo.demo.commands import too_slow

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S = 0.005

_COPIED = """
SELECT coalesce(sum(row_count), 0)::int8 FROM pgflo.copied_ranges WHERE group_name = %s
"""

_COVERED = """
SELECT (min(end_lsn) - '0/0')::int8 FROM pgflo.progress WHERE group_name = %s
"""

_COMMIT = "SELECT (pg_logical_emit_message(true, 'pgflo.demo', '') - '0/0')::int8"


@dataclass(slots=True)
class Lags:
    """Seconds from a commit at the source until the destination had it."""

    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.seconds:
            return "not measured"
        middle_ms, longest_ms = 1000 * median(self.seconds), 1000 * max(self.seconds)
        return f"median {middle_ms:.0f} ms, longest {longest_ms:.0f} ms"


class Meter:
    """One connection to each server, kept open."""

    def __init__(self, source: str, target: str, group: str) -> None:
        self._source = psycopg.connect(source, autocommit=True)
        self._target = psycopg.connect(target, autocommit=True)
        self._group = group

    def close(self) -> None:
        """Close both."""
        self._source.close()
        self._target.close()

    def copied_rows(self) -> int:
        """Rows that the destination has committed out of the copy."""
        return self._number(_COPIED) or 0

    def commit(self) -> int:
        """Commit something empty at the source and give its place in the log."""
        row: Any = self._source.execute(_COMMIT).fetchone()
        return int(row[0])

    def covers(self, lsn: int) -> bool:
        """Whether the destination has everything up to there."""
        covered = self._number(_COVERED)
        return covered is not None and covered >= lsn

    def lag_s(self, alive: Callable[[], None], limit_s: float) -> float:
        """Measure one commit's way. Raises what `alive` raises, and at the limit."""
        started = time.monotonic()
        lsn = self.commit()
        while not self.covers(lsn):
            alive()
            if time.monotonic() - started > limit_s:
                raise too_slow(f"a commit did not arrive within {limit_s:g} s")
            time.sleep(POLL_S)
        return time.monotonic() - started

    def _number(self, query: str) -> int | None:
        try:
            row: Any = self._target.execute(query, (self._group,)).fetchone()
        except psycopg.errors.UndefinedTable:
            return None  # the worker has not been there yet
        return int(row[0]) if row is not None and row[0] is not None else None
