"""What others do to a table while it is copied: rewrites wait, rows that move are copied once."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

import psutil
from psycopg import sql
from tests.fix_load import seed_of_choices
from tests.fix_pipeline import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_pipeline import Command, Pipeline

REWRITES: dict[LiteralString, LiteralString] = {
    "vacuumed": "VACUUM FULL vacuumed",
    "clustered": "CLUSTER clustered USING clustered_pkey",
    "widened": "ALTER TABLE widened ALTER n TYPE bigint, ALTER m TYPE bigint",
    "emptied": "TRUNCATE emptied",
}
"""By table. At the destination `m` is as it will be, and `n` as it was: the values fit."""

TABLES = """
CREATE TABLE vacuumed (id int PRIMARY KEY, n int, m int, v text);
CREATE TABLE clustered (LIKE vacuumed INCLUDING ALL);
CREATE TABLE widened (LIKE vacuumed INCLUDING ALL);
CREATE TABLE whole (LIKE vacuumed INCLUDING ALL) PARTITION BY RANGE (id);
CREATE TABLE emptied PARTITION OF whole FOR VALUES FROM (0) TO (10000);
"""

ROWS = sql.SQL("INSERT INTO {} SELECT i, -i, i, repeat('x', 100) FROM generate_series(1, 4000) i")

WAITING = """
SELECT array_agg(pid ORDER BY pid) FROM pg_locks
WHERE NOT granted AND mode = 'AccessExclusiveLock' AND pg_blocking_pids(pid) && ARRAY(
    SELECT pid FROM pg_stat_activity WHERE application_name = %s)
"""

MOVED = """
SELECT count(*) FROM moving WHERE id >= 19000 AND (ctid::text::point)[0] < 40
"""


@contextmanager
def held_up(replicator: Command, processes: int) -> Iterator[list[psutil.Process]]:
    """Keep a copy from getting on, as a slow disk might."""

    def all_of_them() -> list[psutil.Process] | None:
        found = replicator.children(" copy ")
        return found if len(found) == processes else None

    found = eventually(all_of_them, "copy processes") or []
    for process in found:
        process.suspend()
    try:
        assert not is_published(replicator), "the copy was over before it could be held up"
        yield found
    finally:
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def is_published(replicator: Command) -> bool:
    return '"copy published"' in replicator.log.read_text(errors="replace")


def queued_by_status(pipeline: Pipeline) -> list[str]:
    (pipeline.directory / "status.log").unlink(missing_ok=True)
    command = pipeline.start("status", "--json")
    assert command.wait() == 0
    told: dict[str, Any] = json.loads(command.log.read_text())
    return sorted(told["copy"]["queued"])


def test_rewrites_wait_for_the_copy_are_named_and_do_not_hold_it_up(pipeline: Pipeline) -> None:
    # GIVEN a copy that has locked every table, and read next to nothing
    source, target = pipeline.source, pipeline.target
    source.execute(TABLES, *(ROWS.format(sql.Identifier(name)) for name in REWRITES))
    pipeline.copy_schema()
    # What a reader waits for in each table; a second by default.
    source.execute(
        sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '100ms'").format(
            sql.Identifier(source.name)
        )
    )
    target.execute("ALTER TABLE widened ALTER m TYPE bigint")
    flags = ("--range-size", "8kB", "--max-copy-workers-per-table", "1", "--max-copy-workers", "4")
    replicator = pipeline.replicate(*flags)
    pipeline.worker()
    with held_up(replicator, processes=4):
        # WHEN each table is to be rewritten, or emptied
        threads, pids = [], {}
        for table, statement in REWRITES.items():
            conn = source.connect()
            pids[table] = conn.info.backend_pid
            threads.append(threading.Thread(target=conn.execute, args=(statement,), daemon=True))
            threads[-1].start()
        # THEN all of these commands wait for the copy's locks
        holder = [f"pgflo_{pipeline.group} snapshot"]
        waiting = sorted(pids.values())
        eventually(lambda: source.value(WAITING, holder) == waiting, "rewrites that wait")
        # and log and status tell which they are
        logged = [f'"pid":{pid},"table":"{table}"' for table, pid in pids.items()]
        log = replicator.log
        eventually(lambda: all(one in log.read_text() for one in logged), "a log that names them")
        named = sorted(f"pid {pid} on {table}" for table, pid in pids.items())
        eventually(lambda: queued_by_status(pipeline) == named, "a status that names them")
        # and even a copy that is begun again gets past them to what it has yet to read
        replicator.kill()
        assert source.value(WAITING, holder) == waiting
        replicator = pipeline.replicate(*flags)
        eventually(lambda: is_published(replicator), "the copy published")
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    # and everything arrives, what is done behind them as well
    for name in map(sql.Identifier, REWRITES):
        source.execute(
            sql.SQL("INSERT INTO {} VALUES (0, 7, 7, 'new')").format(name),
            sql.SQL("UPDATE {} SET n = n - 1, m = m + 1 WHERE id % 100 = 0").format(name),
        )
    pipeline.wait_caught_up()
    pipeline.assert_identical()
    assert source.value("SELECT count(*) FROM emptied") == 1
    assert '"group created"' in replicator.log.read_text()
    assert '"copying tables under a new snapshot"' not in replicator.log.read_text()


def test_an_index_that_is_made_anew_does_not_hold_up_the_copy(
    pipeline: Pipeline,
) -> None:
    # GIVEN two processes that read one table, each with a lock on its index
    source = pipeline.source
    source.execute(
        "CREATE TABLE indexed (id int PRIMARY KEY, v text)",
        "INSERT INTO indexed SELECT i, repeat('x', 100) FROM generate_series(1, 30000) i",
    )
    pipeline.copy_schema()
    replicator = pipeline.replicate("--range-size", "8kB", "--max-copy-workers", "2")
    pipeline.worker()
    conn = source.connect()
    reindex = threading.Thread(target=conn.execute, args=("REINDEX TABLE indexed",), daemon=True)
    waiting = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
    readers = (
        "SELECT count(DISTINCT pid) = 2 FROM pg_locks WHERE relation = 'indexed_pkey'::regclass"
    )
    while True:
        with held_up(replicator, processes=2) as processes:
            if not source.value(readers):
                continue  # between two ranges
            # WHEN the index is to be made anew, and a process comes to it behind that
            reindex.start()
            eventually(lambda: source.value(waiting, [conn.info.backend_pid]), "REINDEX that waits")
            processes[0].kill()
        break
    # THEN the copy ends, and so does the command
    eventually(lambda: is_published(replicator), "the copy published")
    reindex.join(30)
    assert not reindex.is_alive()
    pipeline.wait_caught_up()
    pipeline.assert_identical()


def test_rows_that_move_between_ranges_while_these_are_copied_are_copied_once(
    pipeline: Pipeline,
) -> None:
    # GIVEN full pages, some of whose rows are gone, and no key that would hide a row's twin
    source, chance = pipeline.source, random.Random(seed_of_choices())
    source.execute(
        "CREATE TABLE moving (id int, n int, pad text)"
        " WITH (fillfactor = 100, autovacuum_enabled = off)",
        "ALTER TABLE moving REPLICA IDENTITY FULL",
        "INSERT INTO moving SELECT i, 0, repeat('x', 100) FROM generate_series(1, 20000) i",
        "CREATE INDEX ON moving (id)",
        "DELETE FROM moving WHERE id <= 2000",
    )
    pipeline.copy_schema()
    replicator = pipeline.replicate("--range-size", "8kB", "--max-copy-workers", "1")
    pipeline.worker()
    update = "UPDATE moving SET n = n + 1 WHERE id BETWEEN %s AND %s + 20"
    eventually(lambda: pipeline.target.value("SELECT count(*) FROM moving"), "rows that arrived")
    with held_up(replicator, processes=1), source.connect() as conn:
        # WHEN rows that were read move behind the end, and others into pages that were read
        conn.execute(update, (2001, 2001))
        conn.execute("VACUUM moving")
        conn.execute(update, (19000, 19000))
        assert source.value(MOVED) > 10
    # and so on while the rest is read
    with source.connect() as conn:
        for _ in range(10):
            conn.execute(update, (first := chance.randrange(2001, 19000), first))
            conn.execute("VACUUM moving")
    # THEN both sides have every row once
    pipeline.wait_caught_up()
    pipeline.assert_identical()
    counts = "SELECT count(*), count(DISTINCT id) FROM moving"
    assert pipeline.target.rows(counts) == [(18000, 18000)]
