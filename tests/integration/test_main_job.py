"""The main job by the commands a user types: copy, stream, and both sides are equal afterwards."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fix_pipeline import eventually

if TYPE_CHECKING:
    from tests.fix_load import Load
    from tests.fix_pipeline import Pipeline

DATA = Path(__file__).resolve().parent.parent / "data"


def load_chinook(pipeline: Pipeline) -> None:
    """Fill the source with the Chinook data set (11 tables with keys and foreign keys)."""
    text = files("pgflo.demo").joinpath("chinook.sql").read_text(encoding="utf-8")
    text = re.sub(r"(?im)^(DROP DATABASE|CREATE DATABASE|\\c) .*$", "", text)
    pipeline.run_script(text)


def test_chinook_is_copied_and_streamed_while_writers_run(pipeline: Pipeline, load: Load) -> None:
    # GIVEN Chinook, and an application that writes to tables beside it
    load_chinook(pipeline)
    load.create(rows=3000)
    load.start()
    # WHEN it is copied by eight workers a table and streamed, with Chinook changing too
    pipeline.replicate("--max-copy-workers-per-table", "8", "--range-size", "64kB")
    pipeline.worker()
    with pipeline.source.connect() as conn:
        for _ in range(20):
            conn.execute("UPDATE invoice_line SET quantity = quantity + 1 WHERE track_id % 7 = 0")
            conn.execute("INSERT INTO playlist_track SELECT 2, track_id FROM track LIMIT 50")
            conn.execute("DELETE FROM playlist_track WHERE playlist_id = 2")
            load.wait_committed(5)
    load.stop()
    pipeline.wait_caught_up()
    # THEN a hash of sorted dumps is equal, and so says the command
    pipeline.assert_identical()
    assert pipeline.start("compare").wait() == 0
    assert [command.stop() for command in pipeline.commands[:2]] == [0, 0]


def test_tables_that_are_unlike_others_arrive(pipeline: Pipeline) -> None:
    # GIVEN names, sizes and shapes that trip tools up
    pipeline.run_script((DATA / "odd_tables.sql").read_text(encoding="utf-8"))
    pipeline.copy_schema()
    # WHEN they are copied, and then changed
    pipeline.replicate("--tables", 'public.*,other.same,"Dotted.Schema".*', "--range-size", "256kB")
    pipeline.worker()
    pipeline.wait_caught_up(limit_s=90)
    pipeline.assert_identical()
    pipeline.run_script((DATA / "odd_changes.sql").read_text(encoding="utf-8"))
    # THEN both sides are equal
    pipeline.wait_caught_up(limit_s=90)
    pipeline.assert_identical()


def test_rows_committed_between_snapshot_and_stream_arrive_once(
    pipeline: Pipeline, load: Load
) -> None:
    # GIVEN a table without any unique index that is written to all the time
    load.create(rows=30_000)
    load.start()
    # WHEN the copy is slowed down by tiny ranges, so that many commits fall into it
    pipeline.replicate("--range-size", "64kB", "--max-copy-workers", "1")
    load.wait_committed(100)
    pipeline.worker()
    load.wait_committed(100)
    load.stop()
    # THEN each of its rows is there exactly once
    pipeline.wait_caught_up()
    pipeline.assert_identical()


@pytest.mark.parametrize("mode", ["--copy", "--copy-and-stream"])
def test_commands_end_by_themselves_when_asked_to(pipeline: Pipeline, mode: str) -> None:
    pipeline.source.execute(
        "CREATE TABLE t (id serial PRIMARY KEY, n int);"
        "INSERT INTO t (n) SELECT generate_series(1, 1000)"
    )
    once = () if mode == "--copy" else ("--once",)
    replicator = pipeline.replicate(mode, *once)
    worker = pipeline.worker("--once", "--target-sync-schema")
    assert (replicator.wait(), worker.wait()) == (0, 0)
    pipeline.assert_identical()
    assert pipeline.target.rows("SELECT nextval('t_id_seq')") == [(1001,)]


def test_stream_only_mode_brings_changes_alone(pipeline: Pipeline) -> None:
    pipeline.source.execute(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 10)"
    )
    pipeline.copy_schema()
    pipeline.replicate("--stream")
    pipeline.worker()
    eventually(pipeline.applied_lsn, "the worker's first position")
    pipeline.source.execute("INSERT INTO t SELECT generate_series(11, 20)")
    pipeline.wait_caught_up()
    assert pipeline.target.rows("SELECT min(id), max(id), count(*) FROM t") == [(11, 20, 10)]


def test_second_replicator_and_wrong_password_end_with_their_exit_codes(pipeline: Pipeline) -> None:
    pipeline.source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    pipeline.copy_schema()
    first = pipeline.replicate()
    pipeline.worker()
    pipeline.wait_caught_up()
    second = pipeline.replicate()
    assert second.wait() == 8, second.tail()
    assert first.exit_code() is None
    pipeline.commands.remove(second)
