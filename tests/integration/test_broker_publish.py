"""The publisher of the change stream: every envelope stored once and in order, or a loud end."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from tests.fix_broker import Feed, stored_data, until, until_stored

from pgflo._core import HEADER_BYTES
from pgflo.broker.publisher import ChangePublisher
from pgflo.broker.topology import (
    create_streams,
    delete_streams,
    last_envelope,
    purge_through,
    stream_state,
)
from pgflo.errors import (
    BROKER_CHAIN,
    BROKER_PAYLOAD,
    BROKER_UNREACHABLE,
    BROKER_WENT_BACK,
    PgfloError,
)

if TYPE_CHECKING:
    from tests.fix_broker import OpenBroker
    from tests.fix_nats import NatsFactory
    from tests.fix_proxy import ProxyFactory

    from pgflo._core import Envelope
    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.embedded import EmbeddedNats

MIB = 1024 * 1024


async def open_publisher(
    broker: Broker, names: Names, *, window_bytes: int = MIB, deadline_s: float = 0.5
) -> tuple[ChangePublisher, list[bytes]]:
    """Open a publisher, and a list of what it says is stored."""
    publisher = await ChangePublisher.open(
        broker,
        names,
        broker.settings,
        run_id=uuid.uuid4().hex,
        window_bytes=window_bytes,
        deadline_s=deadline_s,
    )
    told: list[bytes] = []
    publisher.on_stored = lambda envelope, _time: told.append(envelope.data)
    return publisher, told


async def until_told(told: list[bytes], least: int) -> None:
    await until(lambda: len(told) >= least, f"{least} envelopes are acknowledged")


async def publish_all(publisher: ChangePublisher, envelopes: list[Envelope]) -> None:
    for envelope in envelopes:
        await publisher.publish(envelope)
    await publisher.drain()


async def test_every_envelope_is_stored_once_and_in_order_while_the_broker_is_killed(
    nats_factory: NatsFactory, open_broker: OpenBroker, names: Names
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    await create_streams(broker, names, broker.settings, copy=False)
    publisher, told = await open_publisher(broker, names, window_bytes=256 * 1024)
    envelopes = Feed(names).make(2000, row_bytes=4000)
    publishing = asyncio.create_task(publish_all(publisher, envelopes))
    for kills_after in (200, 600, 601, 1100, 1700):
        await until_told(told, kills_after)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    await publishing
    expected = [envelope.data for envelope in envelopes]
    assert told == expected
    assert await stored_data(broker, names.changes_stream, 2000) == expected
    await publisher.close()


async def test_a_frozen_broker_is_waited_for_without_piling_up_bytes(
    nats_factory: NatsFactory, open_broker: OpenBroker, names: Names
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    await create_streams(broker, names, broker.settings, copy=False)
    publisher, told = await open_publisher(broker, names, deadline_s=0.2)
    envelopes = Feed(names).make(400, row_bytes=50_000)
    publishing = asyncio.create_task(publish_all(publisher, envelopes))
    await until(lambda: len(told) > 20, "a beginning")
    server.pause()
    frozen_at = time.monotonic()
    most = 0

    def is_long_ago() -> bool:
        nonlocal most
        most = max(most, broker.nc.pending_data_size)
        return time.monotonic() - frozen_at > 8

    await until(is_long_ago, "many deadlines in silence")
    assert publisher.in_flight_bytes <= MIB
    assert most < 2 * MIB
    server.unpause()
    await publishing
    assert told == [envelope.data for envelope in envelopes]
    assert await stored_data(broker, names.changes_stream, 400) == told
    await publisher.close()


@pytest.mark.parametrize("window_s", [120.0, 0.1])
async def test_what_was_stored_but_never_acknowledged_is_found_by_its_sequence(
    nats_server: EmbeddedNats,
    broker: Broker,
    open_broker: OpenBroker,
    tcp_proxy: ProxyFactory,
    names: Names,
    window_s: float,
) -> None:
    proxy = tcp_proxy("127.0.0.1", nats_server.port)
    through_proxy = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    await create_streams(
        through_proxy, names, broker.settings, copy=False, duplicate_window_s=window_s
    )
    publisher, told = await open_publisher(through_proxy, names)
    envelopes = Feed(names).make(30)
    await publish_all(publisher, envelopes[:10])
    await asyncio.to_thread(proxy.hold_responses)
    for envelope in envelopes[10:]:
        await publisher.publish(envelope)
    await until_stored(broker, names.changes_stream, 30)
    stored_at = time.monotonic()
    await until(lambda: time.monotonic() - stored_at > 0.3, "the short window is over")
    assert len(told) == 10
    await asyncio.to_thread(proxy.cut)
    await asyncio.to_thread(proxy.resume)
    await publisher.drain()
    assert told == [envelope.data for envelope in envelopes]
    assert await stored_data(broker, names.changes_stream, 30) == told
    await publish_all(publisher, Feed(names).make(1))
    await publisher.close()


async def test_an_envelope_lost_in_the_middle_is_sent_again_with_all_behind_it(
    nats_server: EmbeddedNats,
    broker: Broker,
    open_broker: OpenBroker,
    tcp_proxy: ProxyFactory,
    streams: Names,
) -> None:
    proxy = tcp_proxy("127.0.0.1", nats_server.port)
    through_proxy = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    publisher, told = await open_publisher(through_proxy, streams)
    envelopes = Feed(streams).make(300, row_bytes=20_000)
    lost = proxy.drop_requests_matching(lambda block: envelopes[150].data[:200] in block)
    await publish_all(publisher, envelopes)
    assert lost.is_set()
    assert told == [envelope.data for envelope in envelopes]
    assert await stored_data(broker, streams.changes_stream, 300) == told
    await publisher.close()


async def test_a_second_publisher_is_fenced_off(broker: Broker, streams: Names) -> None:
    first, told = await open_publisher(broker, streams)
    second, _ = await open_publisher(broker, streams)
    envelopes = Feed(streams).make(4)
    await publish_all(first, envelopes[:2])
    with pytest.raises(PgfloError) as caught:
        await publish_all(second, envelopes[2:3])
    assert caught.value.kind is BROKER_CHAIN
    assert second.failed.is_set()
    await publish_all(first, envelopes[3:])
    assert await stored_data(broker, streams.changes_stream, 3) == told
    await first.close()
    await second.close()


async def test_a_publisher_that_was_replaced_cannot_write_any_more(
    broker: Broker, streams: Names
) -> None:
    zombie, _ = await open_publisher(broker, streams)
    envelopes = Feed(streams).make(5)
    await publish_all(zombie, envelopes[:2])
    heir, told = await open_publisher(broker, streams)
    assert heir.last is not None
    assert heir.last.seq == 2
    assert heir.last.header.commit_lsn == envelopes[1].commit_lsn
    await publish_all(heir, envelopes[2:4])
    with pytest.raises(PgfloError) as caught:
        await publish_all(zombie, envelopes[4:])
    assert caught.value.kind is BROKER_CHAIN
    expected = [envelope.data for envelope in envelopes[:4]]
    assert await stored_data(broker, streams.changes_stream, 4) == expected
    assert told == expected[2:]
    await zombie.close()
    await heir.close()


async def test_a_broker_restored_from_an_older_copy_is_noticed(
    nats_factory: NatsFactory, open_broker: OpenBroker, names: Names
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    await create_streams(broker, names, broker.settings, copy=False)
    publisher, _ = await open_publisher(broker, names)
    envelopes = Feed(names).make(20)
    await publish_all(publisher, envelopes[:10])
    store, older = server.directory / "jetstream", server.directory / "older"
    await asyncio.to_thread(server.kill)
    shutil.copytree(store, older)
    await asyncio.to_thread(server.start)
    await publish_all(publisher, envelopes[10:])
    await asyncio.to_thread(server.kill)
    shutil.rmtree(store)
    older.rename(store)
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(30):
        await publisher.failed.wait()
    with pytest.raises(PgfloError) as caught:
        await publisher.publish(envelopes[0])
    assert caught.value.kind is BROKER_WENT_BACK
    assert caught.value.can_heal
    await publisher.close()
    # Feeding it again begins where it stands now.
    again, _ = await open_publisher(broker, names)
    assert again.last is not None
    assert again.last.header.commit_lsn == envelopes[9].commit_lsn
    await publish_all(again, envelopes[10:])
    expected = [envelope.data for envelope in envelopes]
    assert await stored_data(broker, names.changes_stream, 20) == expected
    await again.close()


async def test_an_older_copy_that_somebody_filled_up_again_is_noticed(
    nats_factory: NatsFactory, open_broker: OpenBroker, tcp_proxy: ProxyFactory, names: Names
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    await create_streams(broker, names, broker.settings, copy=False)
    proxy = tcp_proxy("127.0.0.1", server.port)
    publisher, _ = await open_publisher(await open_broker(f"nats://127.0.0.1:{proxy.port}"), names)
    envelopes = Feed(names).make(3)
    await publish_all(publisher, envelopes[:2])
    store, older = server.directory / "jetstream", server.directory / "older"
    await asyncio.to_thread(server.kill)
    shutil.copytree(store, older)
    await asyncio.to_thread(server.start)
    await publish_all(publisher, envelopes[2:])
    await asyncio.to_thread(proxy.refuse)
    await asyncio.to_thread(server.kill)
    shutil.rmtree(store)
    older.rename(store)
    await asyncio.to_thread(server.start)
    other, _ = await open_publisher(broker, names)
    await publish_all(other, envelopes[2:])
    await asyncio.to_thread(proxy.resume)
    async with asyncio.timeout(30):
        await publisher.failed.wait()
    with pytest.raises(PgfloError) as caught:
        await publisher.drain()
    assert caught.value.kind is BROKER_WENT_BACK
    await publisher.close()
    await other.close()


async def test_a_stream_that_is_gone_is_noticed(broker: Broker, streams: Names) -> None:
    publisher, _ = await open_publisher(broker, streams)
    envelopes = Feed(streams).make(3)
    await publish_all(publisher, envelopes[:2])
    await delete_streams(broker, streams)
    with pytest.raises(PgfloError) as caught:
        await publish_all(publisher, envelopes[2:])
    assert caught.value.kind is BROKER_WENT_BACK
    await publisher.close()


async def test_a_full_stream_grows_then_holds_back_then_goes_on_after_a_purge(
    nats_url: str, open_broker: OpenBroker, names: Names
) -> None:
    broker = await open_broker(nats_url, stream_max_bytes=4 * MIB)
    await create_streams(broker, names, broker.settings, copy=False, first_max_bytes=MIB)
    publisher, told = await open_publisher(broker, names)
    envelopes = Feed(names).make(100, row_bytes=100_000)
    publishing = asyncio.create_task(publish_all(publisher, envelopes))
    await until(lambda: publisher.full_since is not None, "the stream is full")
    state = await stream_state(broker, names.changes_stream)
    assert state.max_bytes == 4 * MIB
    assert len(told) == state.last_seq < 100
    assert not publishing.done()
    while not publishing.done():
        state = await stream_state(broker, names.changes_stream)
        await purge_through(broker, names.changes_stream, state.last_seq - 5)
        await asyncio.sleep(0.01)
    await publishing
    assert publisher.full_since is None
    assert told == [envelope.data for envelope in envelopes]
    state = await stream_state(broker, names.changes_stream)
    assert state.last_seq == 100
    await publisher.close()


async def test_the_largest_envelope_is_stored_and_read_and_a_larger_one_is_refused(
    broker: Broker, streams: Names, nats_factory: NatsFactory, open_broker: OpenBroker
) -> None:
    largest_body = broker.max_payload_bytes - HEADER_BYTES
    envelopes = Feed(streams, max_body_bytes=largest_body).make(1, row_bytes=4 * MIB)
    assert max(len(envelope.data) for envelope in envelopes) > broker.max_payload_bytes - 16
    publisher, told = await open_publisher(broker, streams)
    await publish_all(publisher, envelopes)
    assert await stored_data(broker, streams.changes_stream, len(envelopes)) == told
    assert await last_envelope(broker, streams.changes_stream) is not None
    await publisher.close()

    narrow = await open_broker(nats_factory(max_payload_bytes=500_000).url)
    await create_streams(narrow, streams, broker.settings, copy=False)
    publisher, told = await open_publisher(narrow, streams)
    with pytest.raises(PgfloError) as caught:
        await publish_all(publisher, envelopes)
    assert caught.value.kind is BROKER_PAYLOAD
    assert told == []
    await publisher.close()


async def test_closing_the_connection_ends_a_publisher_that_waits(
    nats_url: str, open_broker: OpenBroker, names: Names
) -> None:
    broker = await open_broker(nats_url, stream_max_bytes=MIB)
    await create_streams(broker, names, broker.settings, copy=False)
    publisher, _ = await open_publisher(broker, names)
    publishing = asyncio.create_task(
        publish_all(publisher, Feed(names).make(40, row_bytes=100_000))
    )
    await until(lambda: publisher.full_since is not None, "the stream is full")
    await broker.close()
    with pytest.raises(PgfloError) as caught:
        await publishing
    assert caught.value.kind is BROKER_UNREACHABLE
    await publisher.close()
