"""Everything at once: publish, read, and keep a record, under random faults of server and network.

The faults are drawn from PGFLO_SEED; the time they last is PGFLO_PROPERTY_SECONDS, 8 s at least.
Threads and sockets have a timing of their own, so a seed gives similar runs, not equal ones.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from tests.fix_broker import Feed
from tests.fix_property import BUDGET_S, SEED

from pgflo.broker.connection import connect
from pgflo.broker.consumer import Consumer
from pgflo.broker.names import Names
from pgflo.broker.publisher import ChangePublisher
from pgflo.broker.record import Record, SinkRecord
from pgflo.broker.topology import create_streams
from pgflo.config.settings import NatsSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.fix_nats import NatsFactory
    from tests.fix_proxy import ProxyFactory, TcpProxy

    from pgflo.embedded import EmbeddedNats

STORM_S = max(8.0, BUDGET_S)
CALM_S = 60.0
"""How long everything may take to settle when the faults are over."""

SINK = SinkRecord("x", "postgres", "i", 0, 0, 0, "streaming")


class Storm:
    """One fault after the other, each with its end."""

    def __init__(self, server: EmbeddedNats, proxy: TcpProxy, seed: int) -> None:
        self._server = server
        self._proxy = proxy
        self._random = random.Random(seed)

    async def rage(self, seconds: float) -> None:
        """Let faults happen for so long, and end them all."""
        faults = (
            self._kill, self._stop, self._freeze, self._cut, self._refuse,
            self._hold_responses, self._hold_requests, self._lose_request, self._lose_response,
        )  # fmt: skip
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            await asyncio.sleep(self._random.uniform(0, 0.5))
            await self._random.choice(faults)()
        await asyncio.to_thread(self._proxy.resume)

    async def _last(self, seconds: float) -> None:
        await asyncio.sleep(self._random.uniform(0, seconds))

    async def _kill(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await self._last(0.3)
        await asyncio.to_thread(self._server.start)

    async def _stop(self) -> None:
        await asyncio.to_thread(self._server.restart)

    async def _freeze(self) -> None:
        self._server.pause()
        await self._last(1.5)
        self._server.unpause()

    async def _cut(self) -> None:
        await asyncio.to_thread(self._proxy.cut)

    async def _refuse(self) -> None:
        await self._during(self._proxy.refuse, 0.5)

    async def _hold_responses(self) -> None:
        await self._during(self._proxy.hold_responses, 1.5)

    async def _hold_requests(self) -> None:
        await self._during(self._proxy.hold_requests, 1.5)

    async def _during(self, fault: Callable[[], None], seconds: float) -> None:
        await asyncio.to_thread(fault)
        await self._last(seconds)
        if self._random.random() < 0.5:
            await asyncio.to_thread(self._proxy.cut)
        await asyncio.to_thread(self._proxy.resume)

    async def _lose_request(self) -> None:
        self._proxy.drop_requests_matching(lambda _block: self._random.random() < 0.1)

    async def _lose_response(self) -> None:
        self._proxy.drop_responses_matching(lambda _block: self._random.random() < 0.1)


async def live_through(server: EmbeddedNats, proxy: TcpProxy, seed: int) -> None:
    settings = NatsSettings(url=f"nats://127.0.0.1:{proxy.port}")
    ours, theirs = [await connect(settings, name=name) for name in ("publisher", "reader")]
    names, draw = Names("g", uuid.uuid4()), random.Random(seed)
    await create_streams(ours, names, settings, copy=False, duplicate_window_s=0.1)
    publisher = await ChangePublisher.open(
        ours, names, settings, run_id="1", window_bytes=512 * 1024, deadline_s=0.5
    )
    consumer = await Consumer.open(theirs, names.changes_stream, "sink_x", 1, max_bytes=1 << 20)
    record = await Record.open(theirs, "g", create=True)
    assert record is not None
    sent: list[bytes] = []
    told: list[bytes] = []
    got: list[bytes] = []
    publisher.on_stored = lambda envelope, _time: told.append(envelope.data)
    is_over = asyncio.Event()

    async def publish() -> None:
        feed = Feed(names)
        while not is_over.is_set():
            for envelope in feed.make(20, row_bytes=draw.choice([100, 5000, 60_000])):
                sent.append(envelope.data)
                await publisher.publish(envelope)
        await publisher.drain()

    async def read() -> None:
        while not (publishing.done() and len(got) >= len(sent)):
            message = await consumer.next(0.2)
            if message is not None:
                got.append(message.data)
                assert message.seq == len(got)
                if draw.random() < 0.1:
                    await consumer.ack(message.seq)

    async def write_record() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            await record.put_sink(dataclasses.replace(SINK, commit_lsn=number))
            assert (await record.sinks())["x"].commit_lsn == number

    publishing = asyncio.create_task(publish())
    others: list[Coroutine[None, None, None]] = [read(), write_record()]
    working = asyncio.gather(publishing, *others)
    raging = asyncio.create_task(Storm(server, proxy, seed).rage(STORM_S))
    both: list[asyncio.Future[Any]] = [raging, working]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    is_over.set()
    await raging
    async with asyncio.timeout(CALM_S):
        await working
    assert told == sent
    assert got == sent
    assert ours.generation > 0
    await publisher.close()
    await consumer.close()
    await ours.close()
    await theirs.close()


@pytest.mark.timeout(STORM_S + 2 * CALM_S)
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_nothing_is_lost_or_repeated_in_a_storm_of_faults(
    nats_factory: NatsFactory,
    tcp_proxy: ProxyFactory,
    run: Callable[[Coroutine[None, None, None]], None],
) -> None:
    server = nats_factory()
    run(live_through(server, tcp_proxy("127.0.0.1", server.port), SEED))
