"""Fixture `movement`: one source table, two destinations behind rules, of which one never groups.

Neighbours: `fix_changes` reads the source and applies; `tests.property` says what happens there.
Invariant: both destinations begin each history empty, and are given the same bodies.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql
from tests.fix_changes import Changes, Sink, bodies
from tests.fix_postgres import fresh_database

from pgflo.sinks.postgres import transaction
from pgflo.worker.filtering import Rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.fix_postgres import Database

    from pgflo import _core
    from pgflo.embedded import EmbeddedPostgres
    from pgflo.rules.spec import Spec

TABLES = ("t", "t_in", "t_out")
NEVER = 10**9


class Movement:
    """A source with table `t`, and two destinations with all of `TABLES`."""

    def __init__(self, changes: Changes, grouping: Sink, replaying: Sink) -> None:
        self.changes = changes
        self.source = changes.source
        self.sinks = (grouping, replaying)

    def begin(self, *, full: bool) -> int:
        """Make all tables anew; give the OID of the source's."""
        create = sql.SQL(
            "DROP TABLE IF EXISTS {0};"
            " CREATE TABLE {0} (id int PRIMARY KEY, state text, n int, doc text, tag text)"
        )
        identity = sql.SQL("FULL" if full else "DEFAULT")
        self.source.execute(
            create.format(sql.Identifier("t")),
            "ALTER TABLE t ALTER doc SET STORAGE EXTERNAL",
            sql.SQL("ALTER TABLE t REPLICA IDENTITY {}").format(identity),
        )
        for sink in self.sinks:
            sink.target.execute(*(create.format(sql.Identifier(name)) for name in TABLES))
        self.changes.frames()
        return int(self.source.value("SELECT 't'::regclass::oid::bigint"))

    def follow(self, spec: Spec, **limits: int) -> None:
        """Apply at both destinations what happened, and see that nothing was met unexpectedly."""
        envelopes = self.changes.envelopes(**limits)
        for sink, fewest in zip(self.sinks, (0, NEVER), strict=True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(transaction, "FEWEST_GROUPED_CHANGES", fewest)
                try:
                    _apply(sink, spec, envelopes)
                finally:
                    # What it holds locked would stop whatever comes next.
                    sink.close()

    def rows(self, number: int, table: str) -> list[tuple[Any, ...]]:
        """Give the rows of a destination's table."""
        query = sql.SQL("SELECT * FROM {} ORDER BY id").format(sql.Identifier(table))
        return self.sinks[number].target.rows(query)


def _apply(sink: Sink, spec: Spec, envelopes: Sequence[_core.Envelope]) -> None:
    transactions, rules = sink.open(), Rules(spec)
    step = []
    for body in bodies(envelopes):
        step.append(body)
        if body.is_closed:
            if made := rules.apply(step, transactions.position):
                transactions.step(made)
            applied = transactions.commit(body.end, body.end_lsn)
            assert (applied.conflicts, applied.careful_steps) == (Counter(), 0)
            step = []


@pytest.fixture
def movement(
    source: Database, target: Database, target_server: EmbeddedPostgres
) -> Iterator[Movement]:
    """Give a source and two destinations."""
    with fresh_database(target_server, f"replaying {target.name}") as other:
        changes = Changes(source)
        sinks = [
            Sink(database, changes.incarnation, changes.start_lsn) for database in (target, other)
        ]
        yield Movement(changes, *sinks)
        for sink in sinks:
            sink.close()
