"""The consumer: each envelope once and in order, whatever happens to the broker in between."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest
from tests.fix_broker import LIMIT_S, Feed, fill, until

from pgflo.broker.consumer import Consumer
from pgflo.broker.topology import create_streams, delete_streams, purge_through, stream_state
from pgflo.errors import BROKER_GAP, BROKER_UNREACHABLE, BROKER_WENT_BACK, PgfloError

if TYPE_CHECKING:
    from tests.fix_broker import OpenBroker
    from tests.fix_nats import NatsFactory
    from tests.fix_proxy import ProxyFactory

    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.embedded import EmbeddedNats

MIB = 1024 * 1024


async def read(consumer: Consumer, count: int) -> list[int]:
    """Read sequences; None in time ends it."""
    seqs: list[int] = []
    while len(seqs) < count and (message := await consumer.next(LIMIT_S)) is not None:
        seqs.append(message.seq)
    return seqs


async def test_every_envelope_comes_once_and_in_order_while_the_broker_is_killed(
    nats_factory: NatsFactory, open_broker: OpenBroker, names: Names
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    await create_streams(broker, names, broker.settings, copy=False)
    envelopes = Feed(names).make(2000, row_bytes=4000)
    await fill(broker, names, envelopes)
    consumer = await Consumer.open(broker, names.changes_stream, "sink_x", 1, max_bytes=1024 * 1024)
    got: list[bytes] = []
    for kill_at in (300, 800, 801, 1500, 2000):
        while len(got) < kill_at:
            message = await consumer.next(LIMIT_S)
            assert message is not None
            assert message.seq == len(got) + 1
            got.append(message.data)
            if message.seq % 100 == 0:
                await consumer.ack(message.seq)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    assert got == [envelope.data for envelope in envelopes]
    assert await consumer.next(0.5) is None
    await fill(broker, names, Feed(names).make(1))
    assert await read(consumer, 1) == [2001]
    await consumer.close()


async def test_of_two_readers_under_one_name_the_one_that_stays_goes_on(
    nats_url: str, open_broker: OpenBroker, names: Names
) -> None:
    # GIVEN a reader that makes the consumer anew again and again, as one does that woke up too late
    ours, theirs = await open_broker(nats_url), await open_broker(nats_url)
    await create_streams(ours, names, ours.settings, copy=False)
    await fill(ours, names, Feed(names).make(30))
    rival = await Consumer.open(theirs, names.changes_stream, "sink_x", 1)

    async def disturb() -> None:
        while True:
            await rival._pull.make(1, patience_s=LIMIT_S)

    disturbing = asyncio.create_task(disturb())
    consumers = [await Consumer.open(ours, names.changes_stream, "sink_x", 11) for _ in range(5)]
    # WHEN it ends
    disturbing.cancel()
    await asyncio.wait([disturbing])
    await rival.close()
    # THEN the other one reads on
    for consumer in consumers[:-1]:
        await consumer.close()
    assert await read(consumers[-1], 20) == list(range(11, 31))
    await consumers[-1].close()


async def test_a_frozen_broker_is_waited_for(
    nats_factory: NatsFactory, open_broker: OpenBroker, names: Names
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    await create_streams(broker, names, broker.settings, copy=False)
    await fill(broker, names, Feed(names).make(50))
    consumer = await Consumer.open(broker, names.changes_stream, "sink_x", 1)
    assert await read(consumer, 20) == list(range(1, 21))
    server.pause()
    assert await read_for(consumer, 20.0) == list(range(21, 51))
    server.unpause()
    await fill(broker, names, Feed(names).make(5))
    assert await read(consumer, 5) == list(range(51, 56))
    await consumer.close()


async def read_for(consumer: Consumer, seconds: float) -> list[int]:
    """Read what comes in a while."""
    seqs, ends_at = [], time.monotonic() + seconds
    while (left_s := ends_at - time.monotonic()) > 0:
        message = await consumer.next(left_s)
        if message is not None:
            seqs.append(message.seq)
    return seqs


async def test_a_cut_connection_neither_loses_nor_repeats(
    nats_server: EmbeddedNats,
    broker: Broker,
    open_broker: OpenBroker,
    tcp_proxy: ProxyFactory,
    streams: Names,
) -> None:
    proxy = tcp_proxy("127.0.0.1", nats_server.port)
    through_proxy = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    envelopes = Feed(streams).make(400, row_bytes=20_000)
    await fill(broker, streams, envelopes)
    consumer = await Consumer.open(
        through_proxy, streams.changes_stream, "sink_x", 1, max_bytes=MIB
    )
    seqs: list[int] = []
    for cut_at in (1, 60, 130, 131, 250, 400):
        seqs += await read(consumer, cut_at - len(seqs))
        await asyncio.to_thread(proxy.cut)
    assert seqs == list(range(1, 401))
    assert await consumer.next(0.3) is None
    await consumer.close()


async def test_a_consumer_that_somebody_deleted_begins_anew_where_it_was(
    broker: Broker, streams: Names
) -> None:
    await fill(broker, streams, Feed(streams).make(20))
    consumer = await Consumer.open(broker, streams.changes_stream, "sink_x", 5)
    assert await read(consumer, 3) == [5, 6, 7]
    await broker.ask(f"CONSUMER.DELETE.{streams.changes_stream}.sink_x", {})
    await fill(broker, streams, Feed(streams).make(5))
    assert await read(consumer, 18) == list(range(8, 26))
    assert await consumer.next(0.2) is None
    await consumer.close()


@pytest.mark.parametrize("rival_seq", [5, 9])
async def test_a_consumer_that_another_process_made_in_between_is_replaced(
    broker: Broker,
    nats_server: EmbeddedNats,
    open_broker: OpenBroker,
    tcp_proxy: ProxyFactory,
    streams: Names,
    rival_seq: int,
) -> None:
    # GIVEN a reader whose request to make its consumer is under way, after it deleted the old one
    await fill(broker, streams, Feed(streams).make(20))
    proxy = tcp_proxy("127.0.0.1", nats_server.port)
    through_proxy = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    is_asked, is_made = threading.Event(), threading.Event()

    def wait_for_the_rival(block: bytes) -> bool:
        if b"CONSUMER.CREATE" in block and not is_asked.is_set():
            is_asked.set()
            is_made.wait(LIMIT_S)
        return False

    proxy.drop_requests_matching(wait_for_the_rival)
    opening = asyncio.ensure_future(
        Consumer.open(through_proxy, streams.changes_stream, "sink_x", 5)
    )
    await asyncio.to_thread(is_asked.wait, LIMIT_S)
    # WHEN another one makes a consumer of the same name before it
    rival = await Consumer.open(broker, streams.changes_stream, "sink_x", rival_seq)
    assert await read(rival, 1) == [rival_seq]
    await rival.close()
    is_made.set()
    # THEN each message comes all the same
    consumer = await opening
    assert await read(consumer, 16) == list(range(5, 21))
    await consumer.close()


async def test_what_the_broker_delivers_again_is_not_given_again(
    broker: Broker, streams: Names
) -> None:
    await fill(broker, streams, Feed(streams).make(20))
    consumer = await Consumer.open(broker, streams.changes_stream, "sink_x", 1)
    assert await read(consumer, 10) == list(range(1, 11))
    path = f"{streams.changes_stream}.sink_x"
    info = await broker.ask(f"CONSUMER.INFO.{path}", {})
    # As if it had taken an hour: everything unacknowledged is delivered again at once.
    hasty = {**info["config"], "ack_wait": 50_000_000}
    await broker.ask(
        f"CONSUMER.CREATE.{path}",
        {"stream_name": streams.changes_stream, "config": hasty, "action": "update"},
    )
    assert await read_for(consumer, 1.0) == list(range(11, 21))
    await fill(broker, streams, Feed(streams).make(5))
    assert await read(consumer, 5) == list(range(21, 26))
    await consumer.close()


async def test_acknowledging_moves_the_brokers_floor(broker: Broker, streams: Names) -> None:
    await fill(broker, streams, Feed(streams).make(20))
    consumer = await Consumer.open(broker, streams.changes_stream, "sink_x", 3)
    assert await read(consumer, 10) == list(range(3, 13))
    await consumer.ack(7)
    floor = 0
    async with asyncio.timeout(LIMIT_S):
        while floor < 7:
            info = await broker.ask(f"CONSUMER.INFO.{streams.changes_stream}.sink_x", {})
            floor = info["ack_floor"]["stream_seq"]
    assert floor == 7
    await consumer.close()


async def test_a_reader_that_does_not_read_is_sent_no_more_than_it_asked_for(
    nats_server: EmbeddedNats, broker: Broker, open_broker: OpenBroker, streams: Names
) -> None:
    await fill(broker, streams, Feed(streams).make(400, row_bytes=50_000))
    other = await open_broker(nats_server.url)
    consumer = await Consumer.open(other, streams.changes_stream, "sink_x", 1, max_bytes=4 * MIB)
    await until(lambda: other.nc.stats["in_bytes"] > 3 * MIB, "the first request is served")
    assert await consumer.next(1.0) is not None
    assert other.nc.stats["in_bytes"] < 4.2 * MIB
    assert await read(consumer, 399) == list(range(2, 401))
    await consumer.close()


async def test_one_lane_is_read_in_order_though_lanes_are_mixed(
    broker: Broker, streams: Names
) -> None:
    for number in range(60):
        await broker.js.publish(streams.copy_subject(number % 3), str(number).encode())
    consumer = await Consumer.open(
        broker, streams.copy_stream, "sink_x_lane_1", 1, subject=streams.copy_subject(1)
    )
    got = [await consumer.next(LIMIT_S) for _ in range(20)]
    assert [one.data for one in got if one] == [str(n).encode() for n in range(1, 60, 3)]
    assert {one.subject for one in got if one} == {streams.copy_subject(1)}
    await consumer.close()


async def test_reading_begins_where_a_purged_stream_begins(broker: Broker, streams: Names) -> None:
    await fill(broker, streams, Feed(streams).make(20))
    await purge_through(broker, streams.changes_stream, 12)
    consumer = await Consumer.open(broker, streams.changes_stream, "sink_x", 4)
    assert await read(consumer, 8) == list(range(13, 21))
    await consumer.close()


async def test_envelopes_purged_before_they_were_read_are_an_error(
    nats_server: EmbeddedNats,
    broker: Broker,
    open_broker: OpenBroker,
    tcp_proxy: ProxyFactory,
    streams: Names,
) -> None:
    proxy = tcp_proxy("127.0.0.1", nats_server.port)
    through_proxy = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    await fill(broker, streams, Feed(streams).make(10))
    consumer = await Consumer.open(through_proxy, streams.changes_stream, "sink_x", 1)
    assert await read(consumer, 10) == list(range(1, 11))
    await asyncio.to_thread(proxy.refuse)
    await fill(broker, streams, Feed(streams).make(10))
    await purge_through(broker, streams.changes_stream, 15)
    await asyncio.to_thread(proxy.resume)
    with pytest.raises(PgfloError) as caught:
        await read(consumer, 1)
    assert caught.value.kind is BROKER_GAP
    await consumer.close()


async def test_a_broker_restored_from_an_older_copy_is_noticed(
    nats_factory: NatsFactory, open_broker: OpenBroker, names: Names
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    await create_streams(broker, names, broker.settings, copy=False)
    feed = Feed(names)
    await fill(broker, names, feed.make(5))
    store, older = server.directory / "jetstream", server.directory / "older"
    await asyncio.to_thread(server.kill)
    shutil.copytree(store, older)
    await asyncio.to_thread(server.start)
    await fill(broker, names, feed.make(5))
    consumer = await Consumer.open(broker, names.changes_stream, "sink_x", 1)
    assert await read(consumer, 10) == list(range(1, 11))
    await asyncio.to_thread(server.kill)
    shutil.rmtree(store)
    older.rename(store)
    await asyncio.to_thread(server.start)
    with pytest.raises(PgfloError) as caught:
        await read(consumer, 1)
    assert caught.value.kind is BROKER_WENT_BACK
    await consumer.close()


async def test_a_stream_with_other_envelopes_under_the_same_sequences_is_noticed(
    nats_factory: NatsFactory, open_broker: OpenBroker, tcp_proxy: ProxyFactory, names: Names
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    await create_streams(broker, names, broker.settings, copy=False)
    proxy = tcp_proxy("127.0.0.1", server.port)
    through_proxy = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    store, older = server.directory / "jetstream", server.directory / "older"
    await asyncio.to_thread(server.kill)
    shutil.copytree(store, older)
    await asyncio.to_thread(server.start)
    await fill(broker, names, Feed(names).make(5))
    consumer = await Consumer.open(through_proxy, names.changes_stream, "sink_x", 1)
    assert await read(consumer, 5) == list(range(1, 6))
    await asyncio.to_thread(proxy.refuse)
    await asyncio.to_thread(server.kill)
    shutil.rmtree(store)
    older.rename(store)
    await asyncio.to_thread(server.start)
    await fill(broker, names, Feed(names).make(6))
    assert (await stream_state(broker, names.changes_stream)).last_seq == 6
    await asyncio.to_thread(proxy.resume)
    with pytest.raises(PgfloError) as caught:
        await read(consumer, 1)
    assert caught.value.kind is BROKER_WENT_BACK
    await consumer.close()


async def test_a_stream_that_is_made_anew_is_noticed(broker: Broker, streams: Names) -> None:
    await fill(broker, streams, Feed(streams).make(5))
    consumer = await Consumer.open(broker, streams.changes_stream, "sink_x", 1)
    assert await read(consumer, 5) == list(range(1, 6))
    await delete_streams(broker, streams)
    await create_streams(broker, streams, broker.settings, copy=False)
    with pytest.raises(PgfloError) as caught:
        await read(consumer, 1)
    assert caught.value.kind is BROKER_WENT_BACK
    await consumer.close()


async def test_closing_the_connection_ends_a_reader_that_waits(
    nats_url: str, open_broker: OpenBroker, streams: Names
) -> None:
    other = await open_broker(nats_url)
    consumer = await Consumer.open(other, streams.changes_stream, "sink_x", 1)
    reading = asyncio.create_task(consumer.next(None))
    await asyncio.sleep(0)
    await other.close()
    with pytest.raises(PgfloError) as caught:
        await reading
    assert caught.value.kind is BROKER_UNREACHABLE
    await consumer.close()
