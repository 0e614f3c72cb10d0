"""Destination transactions: steps of changes, and the position they lead to, committed together.

Upstream: the writer process hands over steps. Downstream: `groups` (net effects), `apply` (replay),
`progress`, the destination.
Invariant: COMMIT is sent only after the progress row moved from where this transaction began.

An epoch is one step: BEGIN, SAVEPOINT, changes, progress row, COMMIT. A source transaction larger
than an epoch comes as several steps, of which only the last commits. Each step has a savepoint of
its own, and only that step is held in memory.

There are three ways to apply changes, each tried when the one before it did not go as the changes
say: as net effects, as one statement per change, and as one statement per change that may find
another row than expected. The last two go body by body, so that what is odd about one change does
not slow down the others; with several shards a slice is one body. Where bodies end with a
transaction of the source they are committed there: a row that is changed again and again would
gather its versions in one transaction. All that is sound because what came before went as expected,
row by row: the careful way would have done the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psycopg
import structlog

from pgflo import _core
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.apply import Applier, NotAsExpectedError
from pgflo.sinks.postgres.connection import failure, is_replica
from pgflo.sinks.postgres.contention import repeated
from pgflo.sinks.postgres.groups import GroupApplier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg.rows import TupleRow

    from pgflo.sinks.contract import Body, Progress
    from pgflo.sinks.postgres.connection import Destination
    from pgflo.sinks.postgres.groups import Scan

log = structlog.get_logger("pgflo.sinks.postgres")

BEGIN = "BEGIN; SAVEPOINT step"

BEGIN_CHECKED = "BEGIN; SET CONSTRAINTS ALL DEFERRED; SAVEPOINT step"
"""Where foreign keys are checked: what the source may break until its commit, we may until ours."""

FEWEST_GROUPED_CHANGES = 300
"""Below that a statement per change, all in one pipeline, is done sooner than a round trip for each
group and plans for its rows (pgbench's four tables; at 1,000 changes groups take half the time)."""

MOST_SLOW_CHANGES = 4000
"""Changes of slow tables that one transaction takes, if it can be divided: one row's versions
gather in there, and each change of that row reads all of them."""


@dataclass(slots=True)
class Applied:
    """What a transaction did so far."""

    changes: int = 0
    conflicts: Counter[str] = field(default_factory=Counter)
    careful_steps: int = 0
    grouped_changes: int = 0


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
        self._is_replica = is_replica(conn)
        self._applier = Applier(conn, roots, to.through_root)
        self._groups = GroupApplier(conn, roots, to.through_root, self._applier)
        self._position = held.position
        """Up to where changes are applied, committed or not."""
        self._is_open = False
        self._applied = Applied()
        """Since it was last told."""

    @property
    def position(self) -> tuple[int, int]:
        """Up to where changes are applied, committed or not."""
        return self._position

    def step(self, bodies: Sequence[Body], *, is_divisible: bool = True) -> None:
        """Apply bodies that follow each other.

        `is_divisible`: the destination may be in any state between two transactions of theirs.
        Raises `PgfloError` with table and position, after which the connection must be closed.
        """
        is_whole = is_divisible and not self._is_open
        changes = sum(body.changes for body in bodies)
        # Where triggers and foreign keys act, they are to see what the source's saw, in its order.
        if self._is_replica and changes >= FEWEST_GROUPED_CHANGES:
            scan = self._groups.scan(bodies, self._position)
            if scan.is_fit and scan.slow_changes <= MOST_SLOW_CHANGES:
                if self._apply_groups(bodies, scan):
                    return
                self._undo(is_whole=is_whole)
            self._groups.drop()
        if len(bodies) == 1:
            self._replay(bodies[0])
            return
        for body in bodies:
            self.step([body], is_divisible=is_divisible)
            if is_whole and body.is_closed and body is not bodies[-1]:
                self._commit(body.end, body.end_lsn)

    def commit(
        self, position: tuple[int, int], end_lsn: int, others: Sequence[Progress] = ()
    ) -> Applied:
        """Move the progress row to `position`, where the steps led, and commit.

        The rows of `others`, whose changes were among those of the steps, move with it.
        Raises `PgfloError` GROUP_SUPERSEDED, or what the server said.
        """
        self._commit(position, end_lsn, others)
        applied, self._applied = self._applied, Applied()
        return applied

    def _commit(
        self, position: tuple[int, int], end_lsn: int, others: Sequence[Progress] = ()
    ) -> None:
        if not self._is_open:
            self._conn.execute("BEGIN")
        self._position = max(self._position, position)
        held = progress.move(self._conn, self._to, self._held, self._position, end_lsn, others)
        try:
            self._conn.execute("COMMIT")
        except psycopg.Error as error:
            # A deferred constraint speaks here, or the answer got lost.
            doing = f"committing changes up to {_text(self._position)}"
            raise failure(error, doing, position=_text(self._position)) from None
        self._held = held
        self._is_open = False

    def moved(self, position: tuple[int, int], end_lsn: int) -> None:
        """Take note that another shard's transaction has moved our row, outside of ours."""
        self._held = replace(
            self._held, commit_lsn=position[0], ordinal=position[1], end_lsn=end_lsn
        )
        self._position = position

    # --- the ways to apply

    def _apply_groups(self, bodies: Sequence[Body], scan: Scan) -> bool:
        """Apply net effects; False if they did not go as expected."""
        self._save()
        try:
            repeated(self._conn, lambda: self._groups.apply(bodies, self._position))
        except NotAsExpectedError:
            return False
        self._applied.grouped_changes += scan.changes - scan.slow_changes
        self._book(bodies[-1], scan.changes, Counter())
        return True

    def _replay(self, body: Body) -> None:
        """Apply a body change by change, and carefully if that does not go as expected."""
        self._save()
        try:
            changes, conflicts = self._attempt(body, careful=False)
        except NotAsExpectedError:
            self._conn.execute("ROLLBACK TO SAVEPOINT step")
            changes, conflicts = self._attempt(body, careful=True)
            self._applied.careful_steps += 1
            log.warning(
                "changes did not go as expected and were applied again one by one",
                behind=_text(self._position),
                up_to=_text(body.end),
            )
        self._book(body, changes, conflicts)

    def _attempt(self, body: Body, *, careful: bool) -> tuple[int, Counter[str]]:
        return repeated(
            self._conn, lambda: self._applier.apply(body, self._position, careful=careful)
        )

    # --- where we stand

    def _save(self) -> None:
        """Begin what can be undone by itself."""
        if self._is_open:
            self._conn.execute("RELEASE SAVEPOINT step; SAVEPOINT step")
        else:
            self._conn.execute(BEGIN if self._is_replica else BEGIN_CHECKED)
        self._is_open = True

    def _undo(self, *, is_whole: bool) -> None:
        """Undo what `_save` began; `is_whole`: the transaction with it."""
        self._conn.execute("ROLLBACK" if is_whole else "ROLLBACK TO SAVEPOINT step")
        self._is_open = not is_whole

    def _book(self, body: Body, changes: int, conflicts: Counter[str]) -> None:
        self._position = max(self._position, body.end)
        self._applied.changes += changes
        self._applied.conflicts += conflicts


def _text(position: tuple[int, int]) -> str:
    return f"{_core.lsn_format(position[0])}:{position[1]}"
