"""A broker that lost a part of the copy after acknowledging it, as a loss of power leaves it."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest
from tests.fix_replicator import Replicator, until
from tests.table_records import table as table_record

from pgflo.broker.names import Names
from pgflo.broker.record import Record
from pgflo.broker.records import CopiedRecord, SinkRecord, TableRecord, TableState
from pgflo.broker.topology import purge_through, stream_state
from pgflo.config.settings import CopySettings
from pgflo.replicator.copied import Losses

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fix_broker import OpenBroker
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


@pytest.mark.parametrize("has_range", [True, False])
async def test_a_purged_range_is_lost_unless_a_sink_has_it(
    table: Database, nats_url: str, tmp_path: Path, open_broker: OpenBroker, *, has_range: bool
) -> None:
    # GIVEN a copy that was purged, and a sink that has the last range, or has nothing
    replicator = Replicator(table, nats_url, tmp_path, "purged")
    one_lane = TWO_LANES.model_copy(update={"max_workers": 1})
    await replicator.run(mode="copy-and-stream", once=True, copying=one_lane)
    (before,), group = await replicator.tables(), await replicator.record()
    assert group is not None
    broker = await open_broker(nats_url)
    record = await Record.open(broker, "purged", create=False)
    assert record is not None
    stream = Names("purged", uuid.UUID(group.incarnation)).copy_stream
    await purge_through(broker, stream, (await stream_state(broker, stream)).last_seq)
    at = group.start_lsn
    await record.put_sink(
        SinkRecord("one", "postgres", group.incarnation, at, 0, at, "streaming", {0: 1})
    )
    if has_range:
        (tail,) = before.tails.values()
        await record.put_copied(
            CopiedRecord("one", before.oid, [tail.range_no], 1, before.snapshot_lsn)
        )
    # WHEN the replicator starts again THEN it copies anew what nobody has
    await replicator.run(mode="copy-and-stream", once=True, copying=one_lane)
    (after,) = await replicator.tables()
    assert (after.snapshot_lsn > before.snapshot_lsn) is not has_range


async def test_every_loss_of_the_connection_is_looked_at_with_what_was_stored_by_then(
    nats_factory: NatsFactory, open_broker: OpenBroker
) -> None:
    nats = nats_factory()
    broker = await open_broker(nats.url)
    stored: list[TableRecord] = []
    losses = Losses(broker, lambda: list(stored), broker.generation)
    broker.watch(losses.note)
    losses.note()
    assert losses.states == []
    for oid in (1, 2):
        stored.append(table_record(oid, 1, 1))
        generation, noted = broker.generation, len(losses.states)
        await asyncio.to_thread(nats.kill)
        await until(lambda: len(losses.states) > noted, "the loss")  # noqa: B023 - asked at once
        stored.append(table_record(oid * 10, 1, 1))  # through another connection
        await asyncio.to_thread(nats.start)
        await broker.wait_generation_change(generation)
    assert [[table.oid for table in state] for state in losses.states] == [[1], [1, 10, 2]]
    assert losses.healed.is_set()
    # One that begins later, and was told of an older connection, does not miss it.
    late = Losses(broker, lambda: list(stored), 0)
    late.note()
    assert late.states == [stored]
