"""Fixture `load`: an application that keeps writing to the source, on tables that catch faults.

Upstream: the `pipeline` fixture. Downstream: tests of the main job and of chaos. Invariant: every
transaction is made from a seeded generator, and `committed` counts what the source has confirmed.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from tests.fix_pipeline import LIMIT_S, Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = """
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, note text);
CREATE TABLE documents (id int PRIMARY KEY, revision int NOT NULL, body text NOT NULL);
ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
CREATE TABLE journal (account int NOT NULL, amount int NOT NULL, at timestamptz NOT NULL);
ALTER TABLE journal REPLICA IDENTITY FULL;
CREATE TABLE "Odd ""Name" (
    "Key.part" text, "order" int, value numeric, PRIMARY KEY ("Key.part", "order"));
"""
"""`journal` has no unique index at all: a change applied twice stays visible there for ever."""

ROWS = """
INSERT INTO accounts SELECT i, 1000, NULL FROM generate_series(1, {rows}) i;
INSERT INTO documents SELECT i, 0, repeat(md5(i::text), 200) FROM generate_series(1, 200) i;
INSERT INTO journal SELECT i % 100, i, '2026-01-01' FROM generate_series(1, {rows}) i;
INSERT INTO "Odd ""Name" SELECT 'k' || i % 50, i, i / 7.0 FROM generate_series(1, 2000) i;
"""


OWN_CONFLICTS = (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected)
"""What the writers do to each other: their transaction is rolled back, which is load as well."""


class Load:
    """Writers on the source until `stop`. Wait for progress by `wait_committed`, never by time."""

    def __init__(self, pipeline: Pipeline, seed: int) -> None:
        self.pipeline, self.seed = pipeline, seed
        self.committed = 0
        self.failure: BaseException | None = None
        self._changed = threading.Condition()
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self._starts = 0

    def create(self, *, rows: int = 20_000) -> None:
        """Create and fill the tables at the source, and their definitions at the destination."""
        self.pipeline.source.execute(SCHEMA)
        self.pipeline.source.execute(sql.SQL(ROWS).format(rows=sql.Literal(rows)))
        self.pipeline.copy_schema()

    def start(self, *, writers: int = 2) -> None:
        """Begin to write, after a `stop` as well: other changes then."""
        self._starts += 1
        for number in range(writers):
            thread = threading.Thread(target=self._write, args=(number,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop after the transaction in hand; a writer's failure is the test's."""
        self._done.set()
        for thread in self._threads:
            thread.join(LIMIT_S)
        self._threads.clear()
        self._done.clear()
        if self.failure is not None:
            raise self.failure

    def wait_committed(self, more: int) -> None:
        """Wait until `more` further transactions are committed."""
        with self._changed:
            goal = self.committed + more
            reached = self._changed.wait_for(
                lambda: self.committed >= goal or self.failure is not None, LIMIT_S
            )
        if self.failure is not None:
            raise self.failure
        assert reached, f"the load did not commit {more} transactions in {LIMIT_S} s"

    def _write(self, number: int) -> None:
        rng = random.Random(f"{self.seed}/{self._starts}/{number}")
        try:
            with psycopg.connect(self.pipeline.source_dsn) as conn:
                while not self._done.is_set():
                    with contextlib.suppress(*OWN_CONFLICTS), conn.transaction():
                        for _ in range(rng.choice((1, 1, 3, 20))):
                            self._statement(conn, rng)
                    with self._changed:
                        self.committed += 1
                        self._changed.notify_all()
        except Exception as failure:
            with self._changed:
                self.failure = failure
                self._changed.notify_all()
            raise

    @staticmethod
    def _statement(conn: psycopg.Connection, rng: random.Random) -> None:
        account, amount = rng.randrange(1, 500), rng.randrange(-50, 50)
        kind = rng.random()
        if kind < 0.35:
            conn.execute(
                "INSERT INTO journal VALUES (%s, %s, clock_timestamp())", (account, amount)
            )
        elif kind < 0.55:
            conn.execute(
                "UPDATE accounts SET balance = balance + %s WHERE id = %s", (amount, account)
            )
        elif kind < 0.65:
            conn.execute(
                "UPDATE documents SET revision = revision + 1 WHERE id = %s", (account % 200 + 1,)
            )
        elif kind < 0.70:
            conn.execute(
                "UPDATE documents SET body = repeat(md5(%s), 300) WHERE id = %s",
                (str(amount), account % 200 + 1),
            )
        elif kind < 0.78:
            conn.execute(
                "INSERT INTO accounts VALUES (%s, 0, 'new') ON CONFLICT DO NOTHING",
                (rng.randrange(1_000_000, 2_000_000),),
            )
        elif kind < 0.84:
            conn.execute(
                "DELETE FROM accounts WHERE id = (SELECT max(id) FROM accounts WHERE id > 1000000)"
            )
        elif kind < 0.90:
            conn.execute(
                'UPDATE "Odd ""Name" SET "order" = ("order" + 1000000 + %s) %% 2000000000'
                ' WHERE ("Key.part", "order") IN (SELECT "Key.part", "order" FROM "Odd ""Name"'
                " LIMIT 1)",
                (rng.randrange(1_000_000),),
            )
        elif kind < 0.95:
            conn.execute(
                "DELETE FROM journal WHERE ctid ="
                " (SELECT max(ctid) FROM journal WHERE account = %s)",
                (account % 100,),
            )
        else:
            conn.execute(
                "UPDATE journal SET amount = amount + 1 WHERE ctid ="
                " (SELECT max(ctid) FROM journal WHERE account = %s)",
                (account % 100,),
            )


def seed_of_choices() -> int:
    """Give PGFLO_SEED, and print it: it replays what an application chose to write."""
    seed = int(os.environ.get("PGFLO_SEED", "1"))
    print(f"PGFLO_SEED={seed}")  # noqa: T201
    return seed


@pytest.fixture
def load(pipeline: Pipeline) -> Iterator[Load]:
    """Give a writing application on the source; PGFLO_SEED replays its choices."""
    made = Load(pipeline, seed_of_choices())
    yield made
    made.stop()
