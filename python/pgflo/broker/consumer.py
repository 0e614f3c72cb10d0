"""Envelopes out of a stream, each once and without a gap, through any number of broker restarts.

Upstream: JetStream delivers on request. Downstream: workers; `record` watches a bucket with it.
Invariant: `next` gives each sequence once and in order. Bytes asked for and bytes not yet taken
never exceed `max_bytes`. In any doubt (a silence, a lost connection, a gap, a consumer that
somebody deleted) the consumer is made anew at the sequence behind the last one delivered, after
checking that the stream is still the one it was: where a reader stands is the reader's knowledge,
never the broker's.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from pgflo.broker.pull import DELIVERY_OVERHEAD_BYTES, HEARTBEAT_S, SILENCE_S, Pull
from pgflo.broker.steady import FIRST_PATIENCE_S, SteadyStream
from pgflo.broker.stored import StreamState, is_missing, is_taken, is_unmade, message_at
from pgflo.errors import BROKER_GAP, PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    from pgflo.broker.connection import Broker
    from pgflo.broker.delivery import Delivery

log = structlog.get_logger("pgflo.broker")

MAX_BYTES = 8 * 1024 * 1024
"""Asked for and not yet taken: enough to keep a worker busy, little beside an epoch."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
"""Between two beginnings of which the first brought nothing."""

MOST_UNMADE = 10
"""Times in a row that the broker may fail to make the consumer. While another one of the name is
being made or removed it does; a disk that refuses goes on doing so."""


@dataclass(frozen=True, slots=True)
class Message:
    """One delivered envelope."""

    data: bytes
    seq: int
    subject: str


class Consumer:
    """Reads a stream from a sequence on. `open` makes it; one task calls `next` and `ack`."""

    def __init__(
        self,
        broker: Broker,
        stream: SteadyStream,
        durable: str | None,
        start_seq: int,
        subject: str | None,
        max_bytes: int,
        *,
        has_holes: bool,
    ) -> None:
        self._broker = broker
        self._stream = stream
        self._is_durable = durable is not None
        self._has_holes = has_holes or subject is not None
        largest = broker.max_payload_bytes + DELIVERY_OVERHEAD_BYTES
        self._max_bytes = max(max_bytes, largest)
        self._least_bytes = min(self._max_bytes // 2, largest)
        """Less room is not worth a request, or might not hold the next message."""
        self._last_seq = start_seq - 1
        """Last sequence taken in from the broker; the next one must be behind it."""
        self._last_stored_ns = 0
        self._ready: deque[Message] = deque()
        self._ready_bytes = 0
        self._acks: deque[tuple[int, str]] = deque()
        self._unmade = 0
        """Failures in a row to make it."""
        self._arrived = asyncio.Event()
        self._trouble = asyncio.Event()
        self._why = ""
        self._failure: BaseException | None = None
        self._tender: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] = lambda: None
        self._pull = Pull(
            broker,
            stream.name,
            durable,
            subject,
            take=self._take,
            doubt=self._doubt,
            allow=self._free_bytes,
        )

    @classmethod
    async def open(
        cls,
        broker: Broker,
        stream: str,
        durable: str | None,
        start_seq: int,
        *,
        subject: str | None = None,
        max_bytes: int = MAX_BYTES,
        has_holes: bool = False,
    ) -> Consumer:
        """Begin at `start_seq`, with the consumer `durable` made anew.

        `durable` None: a consumer that vanishes with us. Without `subject` and `has_holes` every
        sequence must come; where the stream begins later than `start_seq`, reading begins there:
        the envelope's header tells the reader what is missing.
        """
        steady = SteadyStream(broker, stream)
        state = await steady.open()
        first = max(start_seq, state.first_seq, 1)
        self = cls(broker, steady, durable, first, subject, max_bytes, has_holes=has_holes)
        try:
            await self._pull.make(first, patience_s=FIRST_PATIENCE_S)
        except PgfloError as error:
            await self._pull.close()
            if not (is_taken(error) or is_unmade(error)):
                raise
            self._doubt(error.detail)
        except BaseException:
            await self._pull.close()
            raise
        self._unwatch = broker.watch(lambda: self._doubt("the connection was lost"))
        self._tender = asyncio.create_task(self._tend(), name=f"consumer {stream}")
        self._tender.add_done_callback(self._tended)
        return self

    async def next(self, timeout_s: float | None) -> Message | None:
        """Give the next message; None when none came within `timeout_s` (None: wait for ever).

        Raises `PgfloError`: BROKER_WENT_BACK, BROKER_GAP, BROKER_SETTINGS, BROKER_UNREACHABLE
        (closed). What came before is given first.
        """
        if not self._ready:
            try:
                async with asyncio.timeout(timeout_s):
                    while not self._ready:
                        self._raise_failure()
                        self._arrived.clear()
                        await self._arrived.wait()
            except TimeoutError:
                return None
        message = self._ready.popleft()
        self._ready_bytes -= len(message.data)
        if not self._trouble.is_set():
            await self._pull.ask()
        return message

    async def ack(self, seq: int) -> None:
        """Tell the broker that everything up to `seq` is done.

        For those who watch: no reading depends on it.
        """
        subject = ""
        while self._acks and self._acks[0][0] <= seq:
            subject = self._acks.popleft()[1]
        if subject and self._broker.is_connected:
            await self._broker.send(subject)

    async def close(self) -> None:
        """Stop reading. The durable consumer stays, for those who watch."""
        self._unwatch()
        if self._tender is not None:
            self._tender.cancel()
            await asyncio.wait([self._tender])
        await self._pull.close()

    def _free_bytes(self) -> int:
        room = self._max_bytes - self._ready_bytes
        return room if room >= self._least_bytes else 0

    def _take(self, message: Msg, delivery: Delivery) -> None:
        seq = delivery.stream_seq
        if seq <= self._last_seq:
            self._doubt("a message came again")
            return
        if not self._has_holes and seq != self._last_seq + 1:
            self._doubt("a sequence is missing")
            return
        self._last_seq = seq
        self._last_stored_ns = delivery.stored_ns
        self._ready.append(Message(message.data, seq, message.subject))
        self._ready_bytes += len(message.data)
        if self._is_durable:
            self._acks.append((seq, message.reply))
        self._arrived.set()

    async def _tend(self) -> None:
        """Wait for trouble and begin anew, for as long as this consumer lives."""
        pause_s = 0.0
        while True:
            began = self._last_seq
            await self._wait_trouble()
            await asyncio.sleep(pause_s)
            await self._begin_anew()
            fruitless = self._last_seq == began
            pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S) if fruitless else 0.0

    def _tended(self, tender: asyncio.Task[None]) -> None:
        if not tender.cancelled() and (error := tender.exception()) is not None:
            self._failure = error
            self._arrived.set()

    async def _wait_trouble(self) -> None:
        while not self._trouble.is_set():
            if self._pull.silence_s >= SILENCE_S:
                self._why = f"nothing heard for {self._pull.silence_s:.0f} s"
                return
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._trouble.wait()
            except TimeoutError:
                continue

    async def _begin_anew(self) -> None:
        log.debug(
            "reading begins anew", stream=self._stream.name, after=self._last_seq, why=self._why
        )
        await self._pull.close()
        await self._broker.wait_connected()
        self._trouble.clear()
        await self._check_stream(await self._stream.look())
        self._acks.clear()
        try:
            await self._pull.make(self._last_seq + 1, patience_s=math.inf)
            self._unmade = 0
        except PgfloError as error:
            self._unmade = self._unmade + 1 if is_unmade(error) else 0
            if not (is_missing(error) or is_taken(error) or 0 < self._unmade < MOST_UNMADE):
                raise
            # The stream is going just now, which the next look tells; or somebody else reads under
            # our name, like a worker that was taken for dead: the one who goes on tries again.
            self._doubt(error.detail)

    async def _check_stream(self, state: StreamState) -> None:
        """See that the stream still holds what it delivered, and what must come next."""
        if state.last_seq < self._last_seq:
            raise self._stream.went_back(
                f"ends with {state.last_seq}, after delivering {self._last_seq}"
            )
        if self._last_stored_ns:
            message = await message_at(self._broker, self._stream.name, self._last_seq)
            if message is not None and message.stored_ns != self._last_stored_ns:
                raise self._stream.went_back(
                    f"holds another message {self._last_seq} than it delivered"
                )
        if not self._has_holes and state.first_seq > self._last_seq + 1:
            raise PgfloError(
                BROKER_GAP,
                f"stream {self._stream.name} begins with {state.first_seq}, "
                f"but {self._last_seq + 1} was not read yet",
                stream=self._stream.name,
                seq=self._last_seq + 1,
            )

    def _doubt(self, why: str) -> None:
        self._why = why
        self._trouble.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
