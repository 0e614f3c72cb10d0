"""A steady load: single-insert transactions at a rate, each due at a moment fixed in advance.

Downstream: the source server. Invariant: a late transaction does not move the ones behind it, so
the rate does not drift; how late they began is told.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg

    from benches.e2e.bed import Bed

CLIENTS = 8
"""Enough that one commit's flush does not hold up the schedule."""
LEAD_S = 0.2
"""Between the call and the first transaction."""


@dataclass(frozen=True)
class Schedule:
    """Transactions `first_id`, `first_id` + 1, … at `rate_per_s` for `seconds`."""

    first_id: int
    rate_per_s: int
    seconds: int

    @property
    def rows(self) -> int:
        """How many rows it inserts."""
        return self.rate_per_s * self.seconds


@contextlib.contextmanager
def clients(bed: Bed, dbname: str) -> Iterator[list[psycopg.Connection]]:
    """Open the sessions that share a load."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(bed.connect(bed.source, dbname)) for _ in range(CLIENTS)]


def insert_paced(sessions: Sequence[psycopg.Connection], table: str, schedule: Schedule) -> float:
    """Insert (id, client, note) rows; return how late the latest of them began, in seconds."""
    statement = sql.SQL("INSERT INTO {} (id, client, note) VALUES (%s, %s, 'a row')").format(
        sql.Identifier(table)
    )
    start = time.monotonic() + LEAD_S

    def client(number: int) -> float:
        latest_s = 0.0
        for index in range(number, schedule.rows, len(sessions)):
            due = start + index / schedule.rate_per_s
            time.sleep(max(0.0, due - time.monotonic()))
            latest_s = max(latest_s, time.monotonic() - due)
            row = (schedule.first_id + index, number)
            sessions[number].execute(statement, row, prepare=True)
        return latest_s

    with ThreadPoolExecutor(len(sessions)) as pool:
        return max(pool.map(client, range(len(sessions))))
