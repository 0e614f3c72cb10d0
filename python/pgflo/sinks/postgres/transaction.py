"""Destination transactions: steps of changes, and the position they lead to, committed together.

Upstream: the writer process hands over steps. Downstream: `apply`, `progress`, the destination.
Invariant: COMMIT is sent only after the progress row moved from where this transaction began.

An epoch is one step: BEGIN, SAVEPOINT, changes, progress row, COMMIT. A source transaction larger
than an epoch comes as several steps, of which only the last commits. Each step has a savepoint of
its own, and only that step is held in memory: when it does not go as expected it alone is rolled
back and applied again carefully. That is sound because the steps before it went as expected, row
by row and in source order: careful mode would have done exactly the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psycopg
import structlog

from pgflo import _core
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.apply import Applier, Body, NotAsExpectedError
from pgflo.sinks.postgres.connection import failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg.rows import TupleRow

    from pgflo.sinks.postgres.connection import Destination
    from pgflo.sinks.postgres.progress import Progress

log = structlog.get_logger("pgflo.sinks.postgres")


@dataclass(slots=True)
class Applied:
    """What a transaction did so far."""

    changes: int = 0
    conflicts: Counter[str] = field(default_factory=Counter)
    careful_steps: int = 0


class Transactions:
    """The sequence of transactions of one shard, through one connection."""

    def __init__(
        self,
        conn: psycopg.Connection[TupleRow],
        to: Destination,
        held: Progress,
        roots: Mapping[int, tuple[str, str] | None],
    ) -> None:
        self._conn = conn
        self._to = to
        self._held = held
        self._applier = Applier(conn, roots)
        self._position = held.position
        """Up to where changes are applied, committed or not."""
        self._applied: Applied | None = None
        """None outside of a transaction."""

    def step(self, bodies: Sequence[Body]) -> None:
        """Apply bodies that follow each other.

        Raises `PgfloError` with table and position, after which the connection must be closed.
        """
        if self._applied is None:
            self._conn.execute("BEGIN; SAVEPOINT step")
            self._applied = Applied()
        else:
            self._conn.execute("RELEASE SAVEPOINT step; SAVEPOINT step")
        try:
            changes, conflicts = self._apply(bodies, careful=False)
        except NotAsExpectedError:
            self._conn.execute("ROLLBACK TO SAVEPOINT step")
            changes, conflicts = self._apply(bodies, careful=True)
            self._applied.careful_steps += 1
            log.warning(
                "changes did not go as expected and were applied again one by one",
                behind=_text(self._position),
                up_to=_text(bodies[-1].end),
                **conflicts,
            )
        self._position = max(self._position, bodies[-1].end)
        self._applied.changes += changes
        self._applied.conflicts += conflicts

    def commit(
        self, position: tuple[int, int], end_lsn: int, others: Sequence[Progress] = ()
    ) -> Applied:
        """Move the progress row to `position`, where the steps led, and commit.

        The rows of `others`, whose changes were among those of the steps, move with it.
        Raises `PgfloError` GROUP_SUPERSEDED, or what the server said.
        """
        if self._applied is None:
            self._conn.execute("BEGIN")
            self._applied = Applied()
        self._position = max(self._position, position)
        held = progress.move(self._conn, self._to, self._held, self._position, end_lsn, others)
        try:
            self._conn.execute("COMMIT")
        except psycopg.Error as error:
            # A deferred constraint speaks here, or the answer got lost.
            raise failure(error, f"committing changes up to {_text(self._position)}") from None
        self._held = held
        applied, self._applied = self._applied, None
        return applied

    def moved(self, position: tuple[int, int], end_lsn: int) -> None:
        """Take note that another shard's transaction has moved our row, outside of ours."""
        self._held = replace(
            self._held, commit_lsn=position[0], ordinal=position[1], end_lsn=end_lsn
        )
        self._position = position

    def _apply(self, bodies: Sequence[Body], *, careful: bool) -> tuple[int, Counter[str]]:
        changes, conflicts = 0, Counter[str]()
        after = self._position
        for body in bodies:
            done, met = self._applier.apply(body, after, careful=careful)
            changes += done
            conflicts += met
            after = max(after, body.end)
        return changes, conflicts


def _text(position: tuple[int, int]) -> str:
    return f"{_core.lsn_format(position[0])}:{position[1]}"
