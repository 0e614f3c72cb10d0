"""A broker that lost a part of the copy after acknowledging it, as a loss of power leaves it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.fix_replicator import Replicator, until

from pgflo.broker.records import TableState
from pgflo.config.settings import CopySettings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fix_nats import NatsFactory
    from tests.fix_postgres import Database

    from pgflo.embedded import EmbeddedNats

pytestmark = pytest.mark.timeout(120)

TWO_LANES = CopySettings(max_workers_per_table=2, max_workers=2, range_bytes=8192 * 16)
ROWS = 20_000


@pytest.fixture
def table(source: Database) -> Database:
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        f"INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, {ROWS}) i",  # noqa: S608
    )
    return source


def lose_the_end_of_the_copy(nats: EmbeddedNats) -> None:
    """Kill the broker, and cut off half of the last block of its copy stream."""
    nats.kill()
    (folder,) = nats.directory.glob("jetstream/**/streams/*_copy")
    last = max(folder.glob("msgs/*.blk"), key=lambda path: int(path.stem))
    with last.open("r+b") as block:
        block.truncate(last.stat().st_size // 2)
    nats.start()


async def test_the_loss_is_noticed_while_streaming_and_the_table_is_copied_anew(
    table: Database, nats_factory: NatsFactory, tmp_path: Path
) -> None:
    # GIVEN a group that streams, whose copy no sink has taken yet
    nats = nats_factory()
    replicator = Replicator(table, nats.url, tmp_path, "lost")
    try:
        running = replicator.start(mode="copy-and-stream", copying=TWO_LANES)
        await replicator.until_streaming()
        (before,) = await replicator.tables()
        # WHEN the end of the copy is lost
        await asyncio.to_thread(lose_the_end_of_the_copy, nats)

        # THEN it is copied under another snapshot, without a restart
        async def is_copied_anew() -> bool:
            if running.task.done():
                running.task.result()
            (now,) = await replicator.tables()
            return now.snapshot_lsn > before.snapshot_lsn and now.state is TableState.PUBLISHED

        await until(is_copied_anew, "another copy")
        await running.stop()
        stored = await replicator.read_back()
        assert stored.copied_integers("public.t") == list(range(1, ROWS + 1))
    finally:
        await replicator.end()


async def test_one_lane_that_published_on_does_not_hide_what_another_lane_lost(
    table: Database, nats_url: str, tmp_path: Path
) -> None:
    # GIVEN a copy of two lanes, of which the broker has the last range and nothing else
    replicator = Replicator(table, nats_url, tmp_path, "gap")
    await replicator.run(mode="copy-and-stream", once=True, copying=TWO_LANES)
    (before,) = await replicator.tables()
    assert len(before.tails) == 2
    await replicator.fill_copy_stream_with_its_last()
    # WHEN the replicator starts again THEN it copies the table anew
    await replicator.run(mode="copy-and-stream", once=True, copying=TWO_LANES)
    (after,) = await replicator.tables()
    assert after.snapshot_lsn > before.snapshot_lsn
    stored = await replicator.read_back()
    assert stored.copied_integers("public.t") == list(range(1, ROWS + 1))
