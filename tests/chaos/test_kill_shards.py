"""kill -9 of the worker and of single writers of four, under load: both sides end equal.

`journal` has no unique index, so a change that is applied twice cannot hide. Which process dies,
and when, is drawn from the seed that is printed.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from tests.chaos.test_kill_at_any_moment import kill_child

if TYPE_CHECKING:
    from tests.fix_load import Load
    from tests.fix_pipeline import Pipeline

ROUNDS = 50 if os.environ.get("PGFLO_LONG") else 2
"""Kills of the worker, and as many of a writer."""

pytestmark = pytest.mark.timeout(1800)


def test_the_worker_and_its_writers_killed_while_four_shards_stream(
    pipeline: Pipeline, load: Load
) -> None:
    chance = random.Random(load.seed)
    load.create(rows=2000)
    load.start()
    pipeline.replicate()
    worker = pipeline.worker("--shards", "4", "--batch-size", "50")
    pipeline.wait_caught_up(limit_s=120)
    for _ in range(ROUNDS):
        load.wait_committed(chance.randrange(1, 150))
        kill_child(worker, f"writer {chance.randrange(4)}")
        load.wait_committed(chance.randrange(1, 150))
        worker.kill()
        pipeline.commands.remove(worker)
        worker = pipeline.worker("--shards", "4", "--batch-size", "50")
    load.stop()
    pipeline.wait_caught_up(limit_s=120)
    pipeline.assert_identical()
    counts = [
        database.value("SELECT count(*) FROM journal")
        for database in (pipeline.source, pipeline.target)
    ]
    assert counts[0] == counts[1]
