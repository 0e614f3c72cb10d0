"""What an application that reads the destination all the time gets to see: states of the source.

The transfers at the source are numbered in the order of their commits (`clock` is one row, which
each of them locks). What the accounts must hold follows from the log of transfers, so that one
query tells whether all it saw belongs together: `total` and `pair` never change, `mark` is what the
log says, the log has as many rows as the clock counts.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from tests.fix_pipeline import LIMIT_S, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.fix_pipeline import Pipeline
    from tests.fix_postgres import Database

BACKLOG = 3000
"""Transactions that wait when the worker starts."""

SEEDS = (0.1, 0.2, 0.3)
"""One for each writer."""

MANY, FEW = 1_000_000, 4
"""Transactions by which writers are ahead of the reader: as many as they can, and so few that they
have fewer changes than net effects are made for."""

CATCH_UP_STATES = 10
STREAMED_STATES = 50
"""What a reader has to have seen, so that it could have seen something wrong."""

BANK = """
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO accounts SELECT i, 1000 FROM generate_series(1, 500) i;
INSERT INTO accounts VALUES (-1, 1000), (-2, 1000);
CREATE TABLE clock (one int PRIMARY KEY, n bigint NOT NULL, logged bigint NOT NULL);
INSERT INTO clock VALUES (1, 0, 0);
CREATE TABLE log (n bigint, transfer int, moved bigint NOT NULL, PRIMARY KEY (n, transfer));

CREATE FUNCTION transfer(transfers int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    now bigint; a int; b int; amount bigint;
BEGIN
    UPDATE clock SET n = n + 1, logged = logged + transfers + 1 RETURNING n INTO now;
    amount := floor(random() * 100);
    -- Two accounts that only trade with each other.
    UPDATE accounts SET balance = balance - amount WHERE id = -1;
    UPDATE accounts SET balance = balance + amount WHERE id = -2;
    INSERT INTO log VALUES (now, 0, amount * (-2 - -1));
    FOR number IN 1 .. transfers LOOP
        amount := floor(random() * 100);
        a := 1 + floor(random() * 500); b := 1 + floor(random() * 500);
        IF a <> b AND random() < 0.1 THEN  -- closed, and opened again
            DELETE FROM accounts WHERE id = a RETURNING balance INTO amount;
            INSERT INTO accounts VALUES (a, 0);
        ELSE
            UPDATE accounts SET balance = balance - amount WHERE id = a;
        END IF;
        UPDATE accounts SET balance = balance + amount WHERE id = b;
        INSERT INTO log VALUES (now, number, amount * (b - a));
    END LOOP;
    RETURN now;
END $$;
"""

LOOK = """
SELECT clock.n, clock.logged, accounts.total, accounts.pair, accounts.mark, log.rows, log.moved
FROM clock,
    (SELECT sum(balance)::bigint AS total, sum(balance * id)::bigint AS mark,
        sum(balance) FILTER (WHERE id < 0)::bigint AS pair FROM accounts) accounts,
    (SELECT count(*) AS rows, coalesce(sum(moved), 0)::bigint AS moved FROM log) log
"""

APPLIED = """
SELECT count(*) FILTER (WHERE rows > 1 AND commands = 1), count(*) FILTER (WHERE commands > 1)
FROM (SELECT count(*) AS rows, count(DISTINCT cmin::text) AS commands FROM log GROUP BY xmin::text)
    AS step
"""
"""Steps whose rows came by one COPY, so as net effects, and steps of one statement per row."""

TOTAL, PAIR = 502 * 1000, 2 * 1000
FIRST_MARK = sum(account * 1000 for account in (-1, -2, *range(1, 501)))


class Seen(NamedTuple):
    """One look at a database."""

    n: int
    logged: int
    total: int
    pair: int
    mark: int
    rows: int
    moved: int

    def assert_whole(self) -> None:
        """Fail unless this is what the source was after transaction `n`."""
        assert (self.total, self.pair) == (TOTAL, PAIR), self
        assert (self.mark, self.rows) == (FIRST_MARK + self.moved, self.logged), self


class Reader:
    """Looks at a database again and again; `run` is for a thread."""

    def __init__(self) -> None:
        self.states = 0
        """Different ones seen."""
        self.last = -1
        """The transaction that was the last one in the latest look."""
        self._looked = threading.Condition()
        self._is_over = False

    def run(self, dsn: str, stop: threading.Event) -> None:
        """Look until `stop`. Fails when what it sees is no state of the source, or an older one."""
        try:
            with psycopg.connect(dsn, autocommit=True) as conn:
                while not stop.is_set():
                    (row,) = conn.execute(LOOK).fetchall()
                    seen = Seen(*row)
                    seen.assert_whole()
                    assert seen.n >= self.last, "a reader went back in time"
                    with self._looked:
                        self.states += seen.n > self.last
                        self.last = seen.n
                        self._looked.notify_all()
        finally:
            with self._looked:
                self._is_over = True
                self._looked.notify_all()

    def wait(self, n: int, stop: threading.Event) -> None:
        """Return when it has seen transaction `n`, at `stop`, and when it looks no more."""
        with self._looked:
            self._looked.wait_for(lambda: self.last >= n or stop.is_set() or self._is_over, LIMIT_S)


def transfer(dsn: str, seed: float, reader: Reader, ahead: int, stop: threading.Event) -> None:
    """Move money until `stop`, in transactions of 1 to 21 transfers, so many ahead of `reader`."""
    rng = random.Random(seed)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT setseed(%s)", [seed])
        while not stop.is_set():
            query = "SELECT transfer(%s)"
            (row,) = conn.execute(query, [rng.choice((0, 1, 2, 5, 20))]).fetchall()
            reader.wait(row[0] - ahead, stop)


@contextmanager
def running(*works: Callable[[threading.Event], None]) -> Iterator[Callable[[], bool]]:
    """Run each in a thread; gives whether all still run. A failure is raised at the end."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(work, stop) for work in works]
        try:
            yield lambda: not any(future.done() for future in futures)
        finally:
            stop.set()
    for future in futures:
        future.result()


def committed(database: Database) -> int:
    """Give how many transactions of `transfer` a database has."""
    return int(database.value("SELECT n FROM clock"))


def test_a_reader_of_one_shard_sees_states_of_the_source_and_never_goes_back(
    pipeline: Pipeline,
) -> None:
    source, target = pipeline.source, pipeline.target
    pipeline.run_script(BANK)
    pipeline.copy_schema()
    # GIVEN a backlog, and an application that goes on
    pipeline.replicate()
    worker = pipeline.worker("--shards", "1")
    pipeline.wait_caught_up()
    assert worker.stop() == 0
    reader = Reader()

    def writing(ahead: int) -> AbstractContextManager[Callable[[], bool]]:
        dsn = pipeline.source_dsn
        return running(*(partial(transfer, dsn, seed, reader, ahead) for seed in SEEDS))

    with running(partial(reader.run, pipeline.target_dsn)) as is_reading:

        def has_seen(n: int, states: int = 0) -> bool:
            return (reader.last >= n and reader.states >= states) or not is_reading()

        with writing(ahead=MANY) as are_writing:
            eventually(lambda: committed(source) > BACKLOG or not are_writing(), "a backlog")
            # WHEN a worker takes the backlog up, in many epochs
            pipeline.worker("--shards", "1", "--batch-size", "1000")
            behind = committed(source)
            eventually(lambda: has_seen(behind, CATCH_UP_STATES), "the backlog to be there")
        eventually(lambda: has_seen(committed(source)), "what came meanwhile to be there")
        # AND follows the application step by step
        with writing(ahead=FEW):
            more = reader.states + STREAMED_STATES
            eventually(lambda: has_seen(behind, more), "what is streamed to be seen")
        eventually(lambda: has_seen(committed(source)), "the end to be seen")
    # THEN nothing that was seen was wrong, and both ways to apply an epoch had their part in it
    by_copy, row_by_row = target.rows(APPLIED)[0]
    assert by_copy >= CATCH_UP_STATES
    assert row_by_row >= CATCH_UP_STATES
    pipeline.assert_identical()
