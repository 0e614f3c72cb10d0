"""A table that joins a group is brought like the others, and foreign keys wait for one state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fix_pipeline import eventually

if TYPE_CHECKING:
    from tests.fix_pipeline import Pipeline

FOREIGN_KEYS = "SELECT conname FROM pg_constraint WHERE contype = 'f' ORDER BY 1"


def test_a_table_that_joins_is_brought_with_its_foreign_keys_both_ways(
    pipeline: Pipeline,
) -> None:
    # GIVEN a group of one table, which refers to another that is not of the group
    source, target = pipeline.source, pipeline.target
    source.execute(
        "CREATE TYPE color AS ENUM ('red')",
        "CREATE TABLE b (id serial PRIMARY KEY, a int, c color)",
        "CREATE TABLE a (id serial PRIMARY KEY, b int REFERENCES b)",
        "ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a",
        "INSERT INTO b (c) SELECT 'red' FROM generate_series(1, 500)",
        "INSERT INTO a (b) SELECT 1 FROM generate_series(1, 500)",
    )
    replicator = pipeline.replicate("--tables", "a")
    worker = pipeline.worker("--target-sync-schema", "--shards", "2")
    pipeline.wait_caught_up()
    assert target.rows(FOREIGN_KEYS) == []
    target.execute("ALTER TABLE a ADD mine int")  # what is there is not looked at again
    # WHEN that joins, while rows that refer to each other come and go
    assert worker.stop() == 0
    assert replicator.stop() == 0
    source.execute(
        "UPDATE a SET b = id; UPDATE b SET a = id",
        "DELETE FROM a WHERE id > 300 AND NOT EXISTS (SELECT FROM b WHERE b.a = a.id)",
        "INSERT INTO a (b) SELECT 2 FROM generate_series(1, 100)",
        "UPDATE b SET a = NULL WHERE id > 400; DELETE FROM a WHERE id BETWEEN 401 AND 500",
        "DELETE FROM b WHERE id > 450",
    )
    pipeline.replicate("--tables", "a,b")
    pipeline.worker("--target-sync-schema", "--shards", "2")
    # THEN its foreign keys are made when both stand at one time, and changes go on
    eventually(lambda: len(target.rows(FOREIGN_KEYS)) == 2, "foreign keys", limit_s=90)
    source.execute("INSERT INTO b (a, c) SELECT 1, 'red'", "INSERT INTO a (b) SELECT 1")
    pipeline.wait_caught_up()
    for query in ("SELECT id, b FROM a ORDER BY 1", "SELECT id, a, c FROM b ORDER BY 1"):
        assert target.rows(query) == source.rows(query)
    assert "foreign keys wait until" in worker.tail(100_000)
    assert target.value("SELECT count(*) FROM pg_stats WHERE tablename = 'b'") == 3
    assert target.rows("SELECT conname FROM pg_constraint WHERE NOT convalidated") == []
