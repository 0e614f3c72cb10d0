"""kill -9 of worker, writers and replicator under rules: what is left is what SQL selects.

Filters, masks, an expression, a column left out, a split by `when`, keys that change, values that
are not sent; default and FULL replica identity. Who dies, and when, is drawn from the seed that is
printed.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from tests.chaos.test_kill_at_any_moment import kill_child

if TYPE_CHECKING:
    from tests.fix_pipeline import Pipeline
    from tests.fix_ruled_load import RuledLoad

ROUNDS = 20 if os.environ.get("PGFLO_LONG") else 1
"""Times that each of the three is killed while streaming."""

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("shards", [1, 4])
def test_destinations_hold_what_sql_selects_whoever_is_killed(
    pipeline: Pipeline, ruled: RuledLoad, shards: int
) -> None:
    # GIVEN a source that is written whenever somebody is killed
    chance = random.Random(ruled.seed + shards)
    ruled.create()
    copying = ("--range-size", "8kB", "--max-copy-workers", "1")
    flags = ("--shards", str(shards), "--batch-size", "50", *ruled.flags)
    replicator, worker = pipeline.replicate(*copying), pipeline.worker(*flags)
    # WHEN processes are killed during the copy and afterwards
    for victims in (["worker", "replicator"], *[["worker", "writer", "replicator"]] * ROUNDS):
        ruled.start()
        for victim in chance.sample(victims, len(victims)):
            ruled.wait_committed(chance.randrange(1, 100))
            match victim:
                case "worker":
                    worker.kill()
                    worker = pipeline.worker(*flags)
                case "replicator":
                    replicator.kill()
                    replicator = pipeline.replicate(*copying)
                case _:
                    kill_child(worker, f"writer {chance.randrange(shards)}")
        # `journal` has no key: it must not grow for longer than its rows are found in it.
        ruled.stop()
        pipeline.wait_caught_up(limit_s=120)
    # THEN what is left is what SQL selects
    ruled.assert_filtered()
