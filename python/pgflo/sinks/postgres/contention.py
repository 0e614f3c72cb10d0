"""What another session at the destination broke: done again behind the same savepoint.

Upstream: `transaction`, for every step. Downstream: the destination.
A deadlock, a serialization failure and a cancelled statement end one statement, not what was asked
for. Rolling back to the step's savepoint gives back every lock that the step took, so that the
other session gets through, and READ COMMITTED sees the rows anew: applying the step once more is
sound. Locks of former steps of the same transaction stay, though; when they are what the other one
waits for, it fails again, and after `ATTEMPTS` the whole transaction is given up. The worker then
begins it again from the stream, after its shortest wait.
Invariant: nothing else is tried again here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import psycopg
import structlog

from pgflo import errors
from pgflo.errors import PgfloError, Retry
from pgflo.sinks.postgres.connection import failure, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.rows import TupleRow

log = structlog.get_logger("pgflo.sinks.postgres")

T = TypeVar("T")

ATTEMPTS = 3
"""A deadlock costs `deadlock_timeout` (1 s) each time before the server notices it."""


def heals(sqlstate: str) -> bool:
    """Whether time heals what an answer of the server says: no reason to doubt the rows."""
    return bool(sqlstate) and kind_of(sqlstate).retry is Retry.BACKOFF


def repeated(conn: psycopg.Connection[TupleRow], work: Callable[[], T]) -> T:
    """Do `work`, which begins at savepoint `step`; again if another session broke it.

    Raises what `work` raises, SINK_CONTENDED after the last attempt.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return work()
        except (PgfloError, psycopg.Error) as met:
            error = failure(met, "applying changes") if isinstance(met, psycopg.Error) else met
            if error.kind is not errors.SINK_CONTENDED:
                raise
        conn.execute("ROLLBACK TO SAVEPOINT step")
        log.warning(
            "another session got in the way; the changes are applied again",
            cause=error.detail,
            attempt=attempt,
            **error.context,
        )
    return work()
