"""Servers that stop, die and forget: the replicator comes back and loses nothing silently."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from tests.fix_postgres import fresh_database
from tests.fix_replicator import Replicator, until

from pgflo import errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fix_nats import NatsFactory
    from tests.fix_postgres import Database, PostgresFactory

    from pgflo.embedded import EmbeddedNats

pytestmark = pytest.mark.timeout(300)


class Alone(Replicator):
    """A replicator between servers of its own."""

    def __init__(self, source: Database, nats: EmbeddedNats, state_dir: Path) -> None:
        super().__init__(source, nats.url, state_dir, "outage")
        self.nats = nats


@pytest.fixture
async def alone(
    postgres_server: PostgresFactory, nats_factory: NatsFactory, tmp_path: Path
) -> AsyncIterator[Alone]:
    """Give a replicator between servers of its own, with a table `t`."""
    server = postgres_server()
    with fresh_database(server, "outage") as database:
        database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        made = Alone(database, nats_factory(), tmp_path)
        yield made
        await made.end()
        if not server.running:
            server.start()


async def test_a_fast_shutdown_of_the_source_takes_seconds_and_streaming_goes_on_afterwards(
    alone: Alone,
) -> None:
    # GIVEN a group that can confirm nothing: no sink is registered
    source = alone.source
    running = alone.start(confirm_after="sink")
    await until(alone.slot_lsn, "slot created")
    source.execute("INSERT INTO t SELECT generate_series(1, 1000)")
    await alone.until_published(alone.wal_lsn())
    # WHEN the source is stopped
    started_at = time.monotonic()
    await asyncio.to_thread(source.server.stop, "fast", 30)
    # THEN it stops at once (it would wait for ever for a client that stays and does not confirm)
    assert time.monotonic() - started_at < 10
    await asyncio.to_thread(source.server.start)
    source.close()
    source.execute("INSERT INTO t SELECT generate_series(1001, 2000)")
    await alone.until_published(alone.wal_lsn())
    await running.stop()
    stored = await alone.read_back()
    assert stored.inserted() == list(range(1, 2001))


async def test_a_killed_source_is_streamed_on_without_a_repeat(alone: Alone) -> None:
    source = alone.source
    running = alone.start(confirm_after="broker")
    await until(alone.slot_lsn, "slot created")
    for batch in range(5):
        source.execute(f"INSERT INTO t SELECT generate_series({batch * 10 + 1}, {batch * 10 + 10})")
    await alone.until_published(alone.wal_lsn())
    await asyncio.to_thread(source.server.kill)
    await asyncio.to_thread(source.server.start)
    source.close()
    source.execute("INSERT INTO t SELECT generate_series(51, 60)")
    await alone.until_published(alone.wal_lsn())
    await running.stop()
    stored = await alone.read_back()
    assert stored.inserted() == list(range(1, 61))


async def test_a_restart_of_the_broker_loses_and_repeats_nothing(alone: Alone) -> None:
    source = alone.source
    running = alone.start()
    await until(alone.slot_lsn, "slot created")
    for batch in range(20):
        source.execute(
            f"INSERT INTO t SELECT i, repeat('x', 1000) FROM "  # noqa: S608
            f"generate_series({batch * 1000 + 1}, {batch * 1000 + 1000}) i"
        )
        if batch in (5, 10, 15):
            await asyncio.to_thread(alone.nats.kill)
            await asyncio.to_thread(alone.nats.start)
    await alone.until_published(alone.wal_lsn())
    await running.stop()
    stored = await alone.read_back()
    assert stored.inserted() == list(range(1, 20001))


async def test_a_broker_that_lost_its_store_is_told_and_nothing_is_begun_anew(
    alone: Alone, nats_factory: NatsFactory
) -> None:
    # GIVEN a group whose broker comes back empty
    await alone.run(once=True)
    alone.nats = nats_factory()
    alone.nats_url = alone.nats.url
    # WHEN it is started THEN it says so
    with pytest.raises(PgfloError) as told:
        await alone.run(once=True)
    assert told.value.kind is errors.GROUP_ORPHANED
    assert "--restart" in told.value.hint
    # AND --restart begins anew
    alone.source.execute("INSERT INTO t SELECT generate_series(1, 10)")
    await alone.run(mode="copy-and-stream", once=True, restart=True)
    stored = await alone.read_back()
    assert stored.copied_integers("public.t") == list(range(1, 11))


async def test_changes_that_the_broker_lost_after_they_were_confirmed_stop_the_group(
    alone: Alone,
) -> None:
    # GIVEN a slot that is confirmed, and a change stream that lost its end
    source = alone.source
    running = alone.start(confirm_after="broker")
    await until(alone.slot_lsn, "slot created")
    source.execute("INSERT INTO t SELECT generate_series(1, 10)")
    lsn = alone.wal_lsn()
    await until(lambda: (alone.slot_lsn() or 0) >= lsn, "slot confirmed")
    await running.stop()
    await alone.delete_stream("changes")
    # WHEN it is started again THEN it stops, and names what to do
    with pytest.raises(PgfloError) as told:
        await alone.run(once=True)
    assert told.value.kind is errors.SLOT_AHEAD
    assert int(told.value.exit_code) == 4


async def test_a_change_stream_that_was_lost_before_confirmation_is_fed_again(
    alone: Alone,
) -> None:
    running = alone.start()
    await until(alone.slot_lsn, "slot created")
    alone.source.execute("INSERT INTO t SELECT generate_series(1, 10)")
    await alone.until_published(alone.wal_lsn())
    await alone.delete_stream("changes")
    alone.source.execute("INSERT INTO t SELECT generate_series(11, 20)")
    await alone.until_published(alone.wal_lsn())
    await running.stop()
    stored = await alone.read_back()
    assert stored.inserted() == list(range(1, 21))


async def test_a_full_stream_holds_the_source_back_and_a_shutdown_still_works(
    alone: Alone,
) -> None:
    # GIVEN a change stream of 2 MB and more than that to publish
    source = alone.source
    running = alone.start(stream_max_bytes=2 * 1024 * 1024)
    await until(alone.slot_lsn, "slot created")
    source.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 10000) i")

    async def is_full() -> bool:
        return (await alone.change_stream_bytes()) > 1024 * 1024

    await until(is_full, "stream nearly full")
    # THEN a stop ends it in time, with the chain whole so far
    started_at = time.monotonic()
    await running.stop()
    assert time.monotonic() - started_at < 20
    stored = await alone.read_back()
    assert stored.inserted() == list(range(1, len(stored.inserted()) + 1))
    # AND with more room it goes on where it was
    await alone.run(once=True)
    assert (await alone.read_back()).inserted() == list(range(1, 10001))


async def test_a_source_can_shut_down_while_the_broker_is_away(alone: Alone) -> None:
    # GIVEN changes that cannot be published
    source = alone.source
    running = alone.start()
    await until(alone.slot_lsn, "slot created")
    await alone.until_streaming()
    await asyncio.to_thread(alone.nats.stop)
    source.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 30000) i")
    # WHEN the source is told to stop
    started_at = time.monotonic()
    await asyncio.to_thread(source.server.stop, "fast", 60)
    # THEN it does, after a while
    assert time.monotonic() - started_at < 45
    # AND when both are back, nothing is missing
    await asyncio.to_thread(alone.nats.start)
    await asyncio.to_thread(source.server.start)
    source.close()
    await alone.until_published(alone.wal_lsn())
    await running.stop()
    assert (await alone.read_back()).inserted() == list(range(1, 30001))
