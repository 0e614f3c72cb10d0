"""Fixture `agreement`: one source, two destinations, of which one takes every epoch the long way.

Neighbours: `fix_changes` reads the source and applies; `tests.property` says what happens there.
Invariant: both destinations begin each history with the same rows, and are given the same bodies.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql
from tests.fix_changes import Changes, Sink, bodies
from tests.fix_postgres import fresh_database
from tests.property.row_histories import first_rows
from tests.property.tables import LEAVES, TABLES, TYPES

from pgflo.errors import PgfloError
from pgflo.sinks.postgres import transaction
from pgflo.sinks.postgres.transaction import Applied

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.fix_postgres import Database
    from tests.property.row_histories import History, Op

    from pgflo.embedded import EmbeddedPostgres
    from pgflo.sinks.contract import Body
    from pgflo.sinks.postgres.transaction import Transactions

Rows = dict[str, list[str]]
NEVER = 10**9
MAX_BODY_BYTES = 256 * 1024


class Side:
    """A destination whose session lives on from history to history, as a writer's does."""

    def __init__(self, sink: Sink, fewest_grouped_changes: int) -> None:
        self.sink = sink
        self._fewest = fewest_grouped_changes
        self._transactions: Transactions | None = None

    def apply(self, epochs: Sequence[Sequence[Body]]) -> Applied | PgfloError:
        """Apply epochs as the writer does: a commit where no transaction continues."""
        if self._transactions is None:
            self._transactions = self.sink.open()
        told = Applied(conflicts=Counter())
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(transaction, "FEWEST_GROUPED_CHANGES", self._fewest)
                for epoch in epochs:
                    self._transactions.step(epoch)
                    if epoch[-1].is_closed:
                        _add(told, self._transactions.commit(epoch[-1].end, epoch[-1].end_lsn))
        except PgfloError as error:
            self._give_up()
            return error
        except BaseException:
            # What it holds locked would stop whatever comes next.
            self._give_up()
            raise
        return told

    def _give_up(self) -> None:
        self.sink.close()
        self._transactions = None


class Agreement:
    """The three databases."""

    def __init__(self, changes: Changes, fast: Sink, slow: Sink) -> None:
        self.changes = changes
        self.source = changes.source
        self.fast = Side(fast, 0)
        self.slow = Side(slow, NEVER)

    def happen(self, history: History, differences: Sequence[Op] = ()) -> list[list[Body]]:
        """Begin anew everywhere and let a history happen at the source; give it as epochs."""
        start = first_rows()
        # The first transaction is everybody's own.
        self.source.execute(sql.SQL("BEGIN; {}; COMMIT; {}").format(start, history.script()))
        for side in (self.fast, self.slow):
            before = [start, *(op.statement() for op in differences)]
            side.sink.target.execute(sql.SQL("; ").join(before))
        _, envelopes = self.changes.cut(
            _at_first_commit(self.changes.frames()),
            target_body_bytes=history.target_body_bytes,
            max_body_bytes=MAX_BODY_BYTES,
        )
        epochs: list[list[Body]] = []
        for number, body in enumerate(bodies(envelopes)):
            ends = history.epoch_ends
            if not epochs or ends[(number - 1) % len(ends)]:
                epochs.append([])
            epochs[-1].append(body)
        return epochs


def rows(database: Database) -> Rows:
    """Return all rows as text, by table."""
    each = [
        sql.SQL('SELECT {}, array_agg(t::text ORDER BY t::text COLLATE "C") FROM {} t').format(
            sql.Literal(table.name), sql.Identifier(table.name)
        )
        for table in TABLES
    ]
    found: list[tuple[Any, ...]] = database.rows(sql.SQL(" UNION ALL ").join(each))
    return {name: texts or [] for name, texts in found}


def _add(total: Applied, more: Applied) -> None:
    total.changes += more.changes
    total.conflicts += more.conflicts
    total.careful_steps += more.careful_steps
    total.grouped_changes += more.grouped_changes


def _at_first_commit(block: bytes) -> tuple[bytes, bytes]:
    """Cut a block of frames behind the first transaction."""
    offset = 0
    while offset < len(block):
        end = offset + 4 + int.from_bytes(block[offset : offset + 4])
        # Length, 25 bytes of a frame's own, then the message.
        is_commit = block[offset + 29 : offset + 30] == b"C"
        offset = end
        if is_commit:
            break
    return block[:offset], block[offset:]


@pytest.fixture
def agreement(
    source: Database, target: Database, target_server: EmbeddedPostgres
) -> Iterator[Agreement]:
    """Give a source and two destinations with all tables."""
    with fresh_database(target_server, f"slow {target.name}") as other:
        source.execute(sql.SQL(TYPES))
        for table in TABLES:
            source.execute(sql.SQL(table.ddl))
        for database in (target, other):
            database.execute(sql.SQL(TYPES))
            for table in TABLES:
                database.execute(sql.SQL(table.target_ddl or table.ddl))
        changes = Changes(source)
        sinks = [
            Sink(database, changes.incarnation, changes.start_lsn) for database in (target, other)
        ]
        for leaf, root in LEAVES.items():
            oid = source.value("SELECT %s::regclass::oid::bigint", [leaf])
            for sink in sinks:
                sink.roots[oid] = ("public", root)
        yield Agreement(changes, *sinks)
        for sink in sinks:
            sink.close()
