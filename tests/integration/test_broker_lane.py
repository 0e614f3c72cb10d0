"""The publisher of a copy lane: in order, and broken openly when an answer is lost."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest
from tests.fix_broker import LIMIT_S, until, until_stored

from pgflo.broker.consumer import Consumer
from pgflo.broker.lane_publisher import LaneBroken, LanePublisher
from pgflo.broker.topology import create_streams, delete_streams, purge_through, stream_state
from pgflo.errors import BROKER_PAYLOAD, BROKER_WENT_BACK, PgfloError

if TYPE_CHECKING:
    from tests.fix_broker import OpenBroker
    from tests.fix_nats import NatsFactory
    from tests.fix_proxy import ProxyFactory

    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.embedded import EmbeddedNats

MIB = 1024 * 1024


def part(attempt: int, number: int, size: int = 100) -> bytes:
    """Make a recognisable piece of a range."""
    return f"{attempt}/{number}".encode().ljust(size, b".")


def number_of(data: bytes) -> tuple[int, int]:
    attempt, _, number = data.rstrip(b".").partition(b"/")
    return int(attempt), int(number)


async def read_lane(broker: Broker, names: Names, lane: int, count: int) -> list[tuple[int, int]]:
    consumer = await Consumer.open(
        broker, names.copy_stream, None, 1, subject=names.copy_subject(lane)
    )
    got: list[tuple[int, int]] = []
    while len(got) < count and (message := await consumer.next(LIMIT_S)) is not None:
        got.append(number_of(message.data))
    assert await consumer.next(0.1) is None
    await consumer.close()
    return got


async def publish_range(
    lane: LanePublisher, subject: str, attempt: int, parts: int, size: int = 100
) -> None:
    for number in range(parts):
        await lane.publish(part(attempt, number, size), subject)
    await lane.drain()


async def until_more(than: int, *lists: list[int]) -> None:
    """Return when they hold more than so many together."""
    await until(lambda: sum(map(len, lists)) > than, "the next range ends, this way or that")


async def test_lanes_publish_side_by_side_each_in_its_order(broker: Broker, streams: Names) -> None:
    lanes = [
        await LanePublisher.open(broker, streams, broker.settings, window_bytes=MIB)
        for _ in range(4)
    ]
    await asyncio.gather(
        *(
            publish_range(lane, streams.copy_subject(number), 1, 200, 20_000)
            for number, lane in enumerate(lanes)
        )
    )
    for number, lane in enumerate(lanes):
        assert lane.in_flight_bytes == 0
        got = await read_lane(broker, streams, number, 200)
        assert got == [(1, n) for n in range(200)]
        await lane.close()


async def test_a_range_that_was_published_is_whole_and_a_kill_breaks_the_one_under_way(
    nats_factory: NatsFactory, open_broker: OpenBroker, names: Names
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    await create_streams(broker, names, broker.settings, copy=True)
    lane = await LanePublisher.open(broker, names, broker.settings, window_bytes=256 * 1024)
    whole: list[int] = []
    broken: list[int] = []
    enough = asyncio.Event()

    async def work() -> None:
        attempt = 0
        while not enough.is_set():
            attempt += 1
            try:
                await publish_range(lane, names.copy_subject(0), attempt, 50, 20_000)
                whole.append(attempt)
            except LaneBroken:
                assert lane.in_flight_bytes == 0
                broken.append(attempt)

    working = asyncio.create_task(work())
    while len(broken) < 3:
        before = (await stream_state(broker, names.copy_stream)).last_seq
        await until_stored(broker, names.copy_stream, before + 60)
        ended = len(whole) + len(broken)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        # Perhaps it has ended already, by what the kill did to it.
        await until_more(ended, whole, broken)
    enough.set()
    await working
    stored = (await stream_state(broker, names.copy_stream)).last_seq
    got = await read_lane(broker, names, 0, stored)
    assert got == sorted(got)
    for attempt in whole:
        assert [part for number, part in got if number == attempt] == list(range(50))
    await lane.close()


async def test_a_lost_answer_breaks_the_range_and_the_next_attempt_is_whole(
    nats_server: EmbeddedNats,
    broker: Broker,
    open_broker: OpenBroker,
    tcp_proxy: ProxyFactory,
    streams: Names,
) -> None:
    proxy = tcp_proxy("127.0.0.1", nats_server.port)
    through_proxy = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    lane = await LanePublisher.open(through_proxy, streams, broker.settings, deadline_s=0.3)
    await publish_range(lane, streams.copy_subject(0), 1, 3)
    await asyncio.to_thread(proxy.hold_responses)
    for number in range(5):
        await lane.publish(part(2, number), streams.copy_subject(0))
    draining = asyncio.create_task(lane.drain())
    await until_stored(broker, streams.copy_stream, 8)
    done, _ = await asyncio.wait([draining], timeout=0.6)
    assert not done, "it may not say so before it has looked at the stream"
    await asyncio.to_thread(proxy.cut)
    await asyncio.to_thread(proxy.resume)
    with pytest.raises(LaneBroken):
        await draining
    await publish_range(lane, streams.copy_subject(0), 3, 5)
    got = await read_lane(broker, streams, 0, 13)
    assert [number for attempt, number in got if attempt == 3] == list(range(5))
    await lane.close()


async def test_full_lanes_wait_and_go_on_in_order_without_being_broken(
    nats_url: str, open_broker: OpenBroker, names: Names
) -> None:
    broker = await open_broker(nats_url, stream_max_bytes=8 * MIB)
    await create_streams(broker, names, broker.settings, copy=True, first_max_bytes=2 * MIB)
    lanes = [
        await LanePublisher.open(broker, names, broker.settings, window_bytes=MIB) for _ in range(3)
    ]
    readers = [
        await Consumer.open(
            broker, names.copy_stream, f"sink_x_lane_{number}", 1,
            subject=names.copy_subject(number),
        )
        for number in range(3)
    ]  # fmt: skip
    publishing = asyncio.gather(
        *(
            publish_range(lane, names.copy_subject(number), 1, 300, 60_000)
            for number, lane in enumerate(lanes)
        )
    )
    await until(lambda: all(lane.full_since is not None for lane in lanes), "all are waiting")
    state = await stream_state(broker, names.copy_stream)
    assert state.max_bytes == 8 * MIB
    assert state.bytes > 4 * MIB

    async def consume(number: int) -> list[tuple[int, int]]:
        got: list[tuple[int, int]] = []
        while len(got) < 300:
            message = await readers[number].next(LIMIT_S)
            assert message is not None
            got.append(number_of(message.data))
            await purge_through(
                broker, names.copy_stream, message.seq, subject=names.copy_subject(number)
            )
        return got

    for got in await asyncio.gather(*(consume(number) for number in range(3))):
        assert got == [(1, n) for n in range(300)]
    await publishing
    for lane, reader in zip(lanes, readers, strict=True):
        assert lane.full_since is None
        await lane.close()
        await reader.close()


async def test_what_a_full_stream_refused_is_sent_again_in_order(
    nats_url: str, open_broker: OpenBroker, names: Names
) -> None:
    broker = await open_broker(nats_url, stream_max_bytes=4 * MIB)
    await create_streams(broker, names, broker.settings, copy=True)
    lane = await LanePublisher.open(broker, names, broker.settings, window_bytes=2 * MIB)
    await lane.publish(part(1, 0, 100_000), names.copy_subject(0))
    # Somebody else takes the room that the lane had seen.
    for _ in range(38):
        await broker.js.publish(names.copy_subject(9), b"x" * 100_000)
    publishing = asyncio.create_task(publish_range(lane, names.copy_subject(0), 2, 30, 100_000))
    await until(lambda: lane.full_since is not None, "it waits")
    await purge_through(broker, names.copy_stream, 10_000, subject=names.copy_subject(9))
    await publishing
    assert await read_lane(broker, names, 0, 31) == [(1, 0), *((2, n) for n in range(30))]
    await lane.close()


async def test_a_lane_whose_stream_went_back_says_so(
    nats_factory: NatsFactory, open_broker: OpenBroker, names: Names
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    await create_streams(broker, names, broker.settings, copy=True)
    lane = await LanePublisher.open(broker, names, broker.settings)
    store, older = server.directory / "jetstream", server.directory / "older"
    await asyncio.to_thread(server.kill)
    shutil.copytree(store, older)
    await asyncio.to_thread(server.start)
    await publish_range(lane, names.copy_subject(0), 1, 5)
    await asyncio.to_thread(server.kill)
    shutil.rmtree(store)
    older.rename(store)
    await asyncio.to_thread(server.start)
    with pytest.raises(PgfloError) as caught:
        await publish_range(lane, names.copy_subject(0), 2, 5)
    assert caught.value.kind is BROKER_WENT_BACK
    await lane.close()


async def test_a_lane_whose_stream_is_gone_says_so(broker: Broker, streams: Names) -> None:
    lane = await LanePublisher.open(broker, streams, broker.settings)
    await publish_range(lane, streams.copy_subject(0), 1, 5)
    await delete_streams(broker, streams)
    with pytest.raises(PgfloError) as caught:
        await publish_range(lane, streams.copy_subject(0), 2, 5)
    assert caught.value.kind is BROKER_WENT_BACK
    await lane.close()


async def test_an_envelope_that_is_too_large_is_refused(broker: Broker, streams: Names) -> None:
    lane = await LanePublisher.open(broker, streams, broker.settings)
    await lane.publish(b"x" * broker.max_payload_bytes, streams.copy_subject(0))
    with pytest.raises(PgfloError) as caught:
        await lane.publish(b"x" * (broker.max_payload_bytes + 1), streams.copy_subject(0))
    assert caught.value.kind is BROKER_PAYLOAD
    await lane.drain()
    await lane.close()


async def test_a_slow_network_is_not_taken_for_a_loss(
    nats_server: EmbeddedNats,
    broker: Broker,
    open_broker: OpenBroker,
    tcp_proxy: ProxyFactory,
    streams: Names,
) -> None:
    proxy = tcp_proxy("127.0.0.1", nats_server.port)
    through_proxy = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    lane = await LanePublisher.open(through_proxy, streams, broker.settings, deadline_s=0.2)
    proxy.delay_ms = 500
    await publish_range(lane, streams.copy_subject(0), 1, 100, 60_000)
    proxy.delay_ms = 0
    assert await read_lane(broker, streams, 0, 100) == [(1, n) for n in range(100)]
    await lane.close()
