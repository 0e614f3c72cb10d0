"""Another number of shards, another index: between runs, also after a crash left them uneven."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from tests.fix_pipeline import eventually
from tests.fix_shards import assigned, held, shard_positions, some_shard_waits

if TYPE_CHECKING:
    from tests.fix_pipeline import Command, Pipeline

TABLES = """
CREATE TABLE t (id int PRIMARY KEY, u int NOT NULL, v text);
CREATE TABLE journal (id int, v text); ALTER TABLE journal REPLICA IDENTITY FULL;
INSERT INTO t SELECT g, g, 'v' FROM generate_series(1, 400) g;
INSERT INTO journal SELECT g, 'v' FROM generate_series(1, 400) g;
"""

LOAD = """
UPDATE t SET v = v || {n} WHERE id % 3 = 0;
BEGIN; INSERT INTO journal SELECT g, {n} FROM generate_series(1, 50) g;
UPDATE t SET u = u WHERE id <= 50; COMMIT;
DELETE FROM journal WHERE ctid = (SELECT max(ctid) FROM journal);
UPDATE journal SET v = 'changed' WHERE ctid = (SELECT min(ctid) FROM journal);
INSERT INTO t SELECT 1000 * {n} + g, 1000 * {n} + g, 'new' FROM generate_series(1, 40) g;
UPDATE t SET id = id + 500 WHERE id % 1000 = 7 AND id > 1000;
DELETE FROM t WHERE id % 1000 = 8 AND id > 1000;
"""

pytestmark = pytest.mark.timeout(300)


def write(pipeline: Pipeline, number: int) -> None:
    """Change all kinds of rows, in several transactions."""
    text = sql.SQL(LOAD).format(n=sql.Literal(number)).as_string()
    for statement in text.strip().split(";\n"):
        pipeline.source.execute(sql.SQL(statement))


def crash_uneven(pipeline: Pipeline, worker: Command, number: int) -> None:
    """Kill -9 a worker of which one shard waits and another has gone on."""
    target = pipeline.target
    with held(target, "t", 7):
        pipeline.source.execute(
            sql.SQL("UPDATE t SET v = {} WHERE id BETWEEN 1 AND 20").format(f"held {number}")
        )
        eventually(lambda: some_shard_waits(target), "a shard that waits")
        write(pipeline, number)
        eventually(lambda: len(set(shard_positions(target))) > 1, "shards at different positions")
        worker.kill()
        pipeline.commands.remove(worker)
        eventually(lambda: not worker_sessions(pipeline), "the end of the writers' sessions")
        assert len(set(shard_positions(target))) > 1


def worker_sessions(pipeline: Pipeline) -> int:
    # One that waits for a lock does not notice that its writer is gone.
    return int(
        pipeline.target.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name ~ ' shard[0-9]+ ' AND wait_event_type IS DISTINCT FROM 'Lock'"
        )
    )


def begin(pipeline: Pipeline, *flags: str) -> Command:
    pipeline.run_script(TABLES)
    pipeline.copy_schema()
    pipeline.replicate()
    worker = pipeline.worker(*flags)
    pipeline.wait_caught_up()
    return worker


def test_the_number_of_shards_changes_from_run_to_run(pipeline: Pipeline) -> None:
    worker = begin(pipeline, "--shards", "4")
    for number, shards in enumerate([2, 1, 3], 1):
        write(pipeline, number)
        assert worker.stop() == 0
        pipeline.commands.remove(worker)
        write(pipeline, 10 + number)
        worker = pipeline.worker("--shards", str(shards))
        pipeline.wait_caught_up()
        assert len(shard_positions(pipeline.target)) == shards
        pipeline.assert_identical()


def test_the_number_of_shards_changes_after_crashes_that_left_them_uneven(
    pipeline: Pipeline,
) -> None:
    worker = begin(pipeline, "--shards", "4")
    for number, shards in enumerate([2, 4, 3, 1], 1):
        crash_uneven(pipeline, worker, number)
        write(pipeline, 10 + number)
        worker = pipeline.worker("--shards", str(shards))
        pipeline.wait_caught_up()
        assert len(shard_positions(pipeline.target)) == shards
        pipeline.assert_identical()
    # One shard cannot be uneven; from there it goes up again.
    worker.kill()
    pipeline.commands.remove(worker)
    write(pipeline, 20)
    pipeline.worker("--shards", "3")
    write(pipeline, 21)
    pipeline.wait_caught_up()
    pipeline.assert_identical()


def test_a_crash_that_left_shards_uneven_is_mended_by_the_same_number(pipeline: Pipeline) -> None:
    worker = begin(pipeline, "--shards", "3")
    for number in range(1, 3):
        crash_uneven(pipeline, worker, number)
        worker = pipeline.worker("--shards", "3")
        pipeline.wait_caught_up()
        pipeline.assert_identical()


def test_an_index_made_while_shards_stood_uneven_makes_its_table_whole(pipeline: Pipeline) -> None:
    worker = begin(pipeline, "--shards", "4")
    assert assigned(pipeline.target)["t"] == ["id"]
    crash_uneven(pipeline, worker, 1)
    # GIVEN an index under which rows of different shards refuse each other, and values that move
    pipeline.target.execute("CREATE UNIQUE INDEX ON t (u)")
    for number in range(30):
        pipeline.source.execute(
            sql.SQL(
                "WITH gone AS (DELETE FROM t WHERE id BETWEEN {} AND {} RETURNING *)"
                " INSERT INTO t SELECT id + 100000, u, v FROM gone"
            ).format(10 * number, 10 * number + 9)
        )
    # WHEN the worker goes on
    pipeline.worker("--shards", "4")
    pipeline.wait_caught_up()
    # THEN one shard applies all of the table's changes
    assert isinstance(assigned(pipeline.target)["t"], int)
    pipeline.assert_identical()
