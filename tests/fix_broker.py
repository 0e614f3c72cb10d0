"""Brokers, streams and real envelopes for tests of `pgflo.broker`.

Neighbours: the servers of `fix_nats`, the native assembler, the encoder of the oracle. Invariant:
envelopes are made by the assembler that the replicator uses, so they chain, decode and locate.
"""

from __future__ import annotations

import asyncio
import struct
import time
import uuid
from typing import TYPE_CHECKING, Protocol

import pytest
from tests.oracle.encode import encode, wal_data
from tests.oracle.messages import Begin, Commit, Insert, Message, Relation, RelationColumn

from pgflo._core import Assembler
from pgflo.broker.connection import connect
from pgflo.broker.consumer import Consumer
from pgflo.broker.names import Names
from pgflo.broker.publisher import ChangePublisher
from pgflo.broker.topology import create_streams, stream_state
from pgflo.config.settings import NatsSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pgflo._core import Envelope
    from pgflo.broker.connection import Broker

LIMIT_S = 30.0
LOOK_S = 0.02

START_LSN = 0x1000
STEP_LSN = 0x100
MAX_BODY_BYTES = 917_504
TABLE = Relation(16400, b"public", b"t", b"d", (RelationColumn(1, b"v", 25, -1),))


class Feed:
    """An endless source: each transaction inserts one row and fills one envelope."""

    def __init__(self, names: Names, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._assembler = Assembler(
            names.incarnation.bytes,
            (START_LSN, 0),
            START_LSN,
            target_body_bytes=1,
            max_body_bytes=max_body_bytes,
        )
        self._lsn = START_LSN
        self._told_table = False

    def make(self, count: int, *, row_bytes: int = 100) -> list[Envelope]:
        """Make the next envelopes."""
        made: list[Envelope] = []
        for _ in range(count):
            lsn = self._lsn + STEP_LSN
            cell = str(lsn).encode().ljust(row_bytes, b".")
            messages: list[Message] = [
                Begin(lsn, 1, 7),
                *([] if self._told_table else [TABLE]),
                Insert(TABLE.oid, (("t", cell),)),
                Commit(0, lsn, lsn + 8, 1),
            ]
            frames = [wal_data(encode(one), start_lsn=lsn, end_lsn=lsn + 8) for one in messages]
            block = b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)
            made += self._assembler.feed(block)
            self._lsn, self._told_table = lsn, True
        return made


class OpenBroker(Protocol):
    """What `open_broker` is."""

    async def __call__(self, url: str, **settings: object) -> Broker:
        """Connect; closed when the test ends."""
        ...


@pytest.fixture
async def open_broker() -> AsyncIterator[OpenBroker]:
    """Open connections that end with the test."""
    brokers: list[Broker] = []

    async def start(url: str, **settings: object) -> Broker:
        asked = NatsSettings.model_validate({"url": url, **settings})
        brokers.append(await connect(asked, name="test"))
        return brokers[-1]

    yield start
    for broker in brokers:
        await broker.close()


@pytest.fixture
def names() -> Names:
    """Name a group that nobody else has."""
    return Names("g", uuid.uuid4())


@pytest.fixture
async def broker(nats_url: str, open_broker: OpenBroker) -> Broker:
    """Connect to the session's server."""
    return await open_broker(nats_url)


@pytest.fixture
async def streams(broker: Broker, names: Names) -> Names:
    """Make both streams of the group on the session's server."""
    await create_streams(broker, names, broker.settings, copy=True)
    return names


async def until(question: Callable[[], bool], what: str, *, limit_s: float = LIMIT_S) -> None:
    """Return when the answer is true; fail naming `what` after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not question():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit_s:.0f} s: {what}")
        await asyncio.sleep(LOOK_S)


async def until_stored(broker: Broker, stream: str, last_seq: int) -> None:
    """Return when the stream ends with `last_seq` or more."""
    deadline = time.monotonic() + LIMIT_S
    while (await stream_state(broker, stream)).last_seq < last_seq:
        if time.monotonic() > deadline:
            pytest.fail(f"{stream} does not get to {last_seq}")
        await asyncio.sleep(LOOK_S)


async def fill(broker: Broker, names: Names, envelopes: list[Envelope]) -> None:
    """Store envelopes in the change stream."""
    publisher = await ChangePublisher.open(broker, names, broker.settings, run_id=uuid.uuid4().hex)
    for envelope in envelopes:
        await publisher.publish(envelope)
    await publisher.drain()
    await publisher.close()


async def stored_data(broker: Broker, stream: str, count: int) -> list[bytes]:
    """Read `count` messages from the beginning, and see that there is no more."""
    consumer = await Consumer.open(broker, stream, None, 1)
    try:
        read: list[bytes] = []
        while len(read) < count and (message := await consumer.next(LIMIT_S)) is not None:
            assert message.seq == len(read) + 1
            read.append(message.data)
        extra = await consumer.next(0.1)
        assert extra is None, f"{stream} holds more than {count} messages"
        return read
    finally:
        await consumer.close()
