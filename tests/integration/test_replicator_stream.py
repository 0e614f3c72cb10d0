"""Streaming: every committed change is stored once, in order, and the slot moves late."""

from __future__ import annotations

import asyncio
import random
import signal
import struct
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from tests.fix_broker import fill
from tests.fix_property import LONG
from tests.fix_replicator import Replicator, until

from pgflo import _core, errors
from pgflo.broker.names import Names
from pgflo.errors import PgfloError
from pgflo.source.walsender import FINISH_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fix_nats import NatsFactory
    from tests.fix_postgres import Database

    from pgflo.broker.connection import Broker

pytestmark = pytest.mark.timeout(300)


async def test_every_change_is_streamed_once_and_in_commit_order(replicator: Replicator) -> None:
    # GIVEN a group that streams
    source = replicator.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    running = replicator.start()
    await until(replicator.slot_lsn, "slot created")
    # WHEN all kinds of changes happen
    source.execute(
        "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 1000) i",
        "UPDATE t SET v = 'y' WHERE id <= 10",
        "DELETE FROM t WHERE id > 990",
        "SELECT pg_logical_emit_message(true, 'p', 'hello')",
        "TRUNCATE t",
        "INSERT INTO t VALUES (2000, NULL)",
    )
    await replicator.until_published(replicator.wal_lsn())
    await running.stop()
    # THEN they are all there, and nothing else
    stored = await replicator.read_back()
    kinds = "".join(message[0] for _, message in stored.changes)
    assert kinds == "I" * 1000 + "U" * 10 + "D" * 10 + "M" + "T" + "I"
    positions = [position for position, _ in stored.changes]
    assert positions == sorted(set(positions))


async def test_until_now_ends_by_itself_with_everything_published(replicator: Replicator) -> None:
    replicator.source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await replicator.run(once=True)
    replicator.source.execute("INSERT INTO t SELECT generate_series(1, 100)")
    lsn = replicator.wal_lsn()
    await replicator.run(until="now")
    stored = await replicator.read_back()
    assert stored.inserted() == list(range(1, 101))
    assert stored.record.phase == "done"
    assert stored.record.final_lsn is not None
    assert stored.headers[-1].end_lsn >= stored.record.final_lsn >= lsn


async def test_a_stop_publishes_what_was_read_and_frees_the_slot_at_once(
    replicator: Replicator,
) -> None:
    source = replicator.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    running = replicator.start()
    await until(replicator.slot_lsn, "slot created")
    source.execute("INSERT INTO t SELECT generate_series(1, 100)")
    await replicator.until_published(replicator.wal_lsn())
    started_at = time.monotonic()
    await running.stop()
    assert time.monotonic() - started_at < FINISH_S, "the server was not waited for in vain"
    assert (
        source.value(
            "SELECT active FROM pg_replication_slots WHERE slot_name = %s",
            [replicator.names_at_source.slot],
        )
        is False
    )


async def test_an_idle_group_moves_its_slot_while_others_write(replicator: Replicator) -> None:
    # GIVEN a group whose table nobody writes
    source = replicator.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE other (v text)")
    running = replicator.start(tables=("t",), confirm_after="broker")
    await until(replicator.slot_lsn, "slot created")
    # WHEN more than a segment of WAL is written for another table
    source.execute("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
    lsn = replicator.wal_lsn()
    # THEN a watermark is published and the slot follows it
    await until(lambda: (replicator.slot_lsn() or 0) >= lsn - 1024, "slot at the end of the WAL")
    await running.stop()
    stored = await replicator.read_back()
    assert [header.kind for header in stored.headers][-1] == _core.KIND_WATERMARK
    assert stored.changes == []


async def test_a_slot_is_not_confirmed_before_a_sink_or_the_horizon_makes_it_safe(
    replicator: Replicator,
) -> None:
    source = replicator.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    running = replicator.start()
    await until(replicator.slot_lsn, "slot created")
    start_lsn = replicator.slot_lsn()
    source.execute("INSERT INTO t SELECT generate_series(1, 100)")
    await replicator.until_published(replicator.wal_lsn())
    await running.stop()
    assert replicator.slot_lsn() == start_lsn


async def test_the_horizon_of_the_broker_confirms_without_any_sink(replicator: Replicator) -> None:
    source = replicator.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    running = replicator.start(broker_sync_horizon_s=0.5)
    await until(replicator.slot_lsn, "slot created")
    source.execute("INSERT INTO t SELECT generate_series(1, 100)")
    lsn = replicator.wal_lsn()
    await until(lambda: (replicator.slot_lsn() or 0) >= lsn, "slot confirmed past the insert")
    stored = await replicator.read_back()
    assert stored.inserted() == list(range(1, 101))
    await running.stop()


@pytest.mark.parametrize("seed", range(3 if LONG else 1))
async def test_kill_9_at_any_moment_leaves_an_unbroken_chain_with_every_change_once(
    replicator: Replicator, seed: int
) -> None:
    # GIVEN a load of small and large transactions, rows larger than an envelope among them
    source, moment = replicator.source, random.Random(seed)
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    process = replicator.spawn(confirm_after="broker")
    await until(replicator.slot_lsn, "slot created")
    rows = 0
    for number in range(40):
        count = (1, 10, 3000, 1, 5)[(number + seed) % 5]
        source.execute(
            f"INSERT INTO t SELECT i, repeat(md5(i::text), 1 + (i % 7) * 20)"  # noqa: S608
            f" FROM generate_series({rows + 1}, {rows + count}) i"
        )
        rows += count
        if number % 10 == seed:
            source.execute(
                f"INSERT INTO t SELECT {rows + 1}, string_agg(md5(i::text), '')"  # noqa: S608
                " FROM generate_series(1, 100000) i"
            )
            rows += 1
        if number % 8 == 7:
            # WHEN the replicator is killed wherever it stands, and started again
            more_bytes = await replicator.change_stream_bytes() + moment.randrange(400_000)
            await until(lambda: grown(replicator, more_bytes), "change stream grown")  # noqa: B023
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = replicator.spawn(confirm_after="broker")
    await replicator.until_published(replicator.wal_lsn())
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    await until(lambda: source.value(active, [replicator.names_at_source.slot]), "slot in use")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    # THEN every change is there once (the chain is checked by reading it)
    stored = await replicator.read_back()
    assert stored.inserted() == list(range(1, rows + 1))


async def test_a_body_that_was_cut_off_between_its_parts_is_published_again_whole(
    replicator: Replicator, broker: Broker
) -> None:
    # GIVEN a row that needs four envelopes, of which only two were stored when the replicator died
    source = replicator.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    await replicator.run(once=True)
    source.execute("INSERT INTO t VALUES (1, 'small')")
    await replicator.run(once=True)
    source.execute(
        "INSERT INTO t SELECT 2, string_agg(md5(i::text), '') FROM generate_series(1, 90000) i"
    )
    before = (await replicator.read_back()).headers[-1]
    record = await replicator.record()
    assert record is not None
    names = Names(replicator.group, uuid.UUID(record.incarnation))
    assembler = _core.Assembler(
        names.incarnation.bytes, (before.commit_lsn, before.ordinal), before.end_lsn
    )
    cut = assembler.feed(peek(replicator, record.publications)) + assembler.flush()
    parts = [envelope for envelope in cut if envelope.parts > 1]
    assert len(parts) == 4
    await fill(broker, names, cut[: cut.index(parts[2])])
    # WHEN it starts again
    await replicator.run(once=True)
    # THEN all parts are there, and the row once
    stored = await replicator.read_back()
    assert stored.inserted() == [1, 2]
    assert [header.part for header in stored.headers if header.parts == 4] == [0, 1, 0, 1, 2, 3]


async def test_a_stop_while_the_slot_waits_for_a_transaction_ends_at_once(
    replicator: Replicator,
) -> None:
    source = replicator.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE other (id int)")
    writer = source.connect()
    writer.execute("BEGIN")
    writer.execute("INSERT INTO other VALUES (1)")
    running = replicator.start(tables=("t",))
    await until(
        lambda: source.value(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s",
            [replicator.names_at_source.slot],
        ),
        "slot being created",
    )
    await asyncio.wait_for(running.stop(), 20)
    writer.execute("ROLLBACK")
    # The next start finds the unfinished one and begins again.
    await replicator.run(once=True, tables=("t",))
    source.execute("INSERT INTO t VALUES (1)")
    await replicator.run(once=True, tables=("t",))
    assert (await replicator.read_back()).inserted() == [1]


async def test_a_first_start_that_fails_midway_leaves_nothing_behind(
    source: Database, nats_factory: NatsFactory, tmp_path: Path
) -> None:
    # GIVEN a broker without room for a stream, which shows only when it is made
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    small = nats_factory(max_store_bytes=64 * 1024 * 1024)
    replicator = Replicator(source, small.url, tmp_path, "midway")
    with pytest.raises(PgfloError) as told:
        await replicator.run(once=True)
    assert told.value.kind is errors.BROKER_FULL
    assert await replicator.record() is None
    assert await replicator.streams() == []
    assert replicator.objects_at_source() == []
    # With less to reserve it works.
    await replicator.run(once=True, stream_max_bytes=32 * 1024 * 1024)


async def grown(replicator: Replicator, size: int) -> bool:
    """Whether the change stream has that many bytes, or all there is to publish."""
    return await replicator.change_stream_bytes() >= size or await replicator.is_level()


def peek(replicator: Replicator, publications: list[str]) -> bytes:
    """Give what the slot would send, as the pump delivers it, and leave the slot where it is."""
    found = replicator.source.rows(
        "SELECT (lsn - '0/0')::bigint, data FROM pg_logical_slot_peek_binary_changes("
        "%s, NULL, NULL, 'proto_version', '1', 'publication_names', %s, 'messages', 'true')",
        [replicator.names_at_source.slot, ",".join(publications)],
    )
    block = bytearray()
    for lsn, data in found:
        frame = b"w" + struct.pack(">QQq", lsn, lsn, 0) + data
        block += struct.pack(">I", len(frame)) + frame
    return bytes(block)
