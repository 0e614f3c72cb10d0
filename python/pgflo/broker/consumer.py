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
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nats.errors
import orjson
import structlog

from pgflo.broker.delivery import Delivery, Remark, read_ack_subject, read_remark
from pgflo.broker.stored import StreamState, is_missing, message_at, state_of
from pgflo.errors import BROKER_GAP, BROKER_SETTINGS, BROKER_WENT_BACK, PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from pgflo.broker.connection import Broker

log = structlog.get_logger("pgflo.broker")

MAX_BYTES = 8 * 1024 * 1024
"""Asked for and not yet taken: enough to keep a worker busy, little beside an epoch."""

REQUEST_MESSAGES = 10_000
"""Upper bound of one request, in messages; its bytes are what really limits it."""

REQUEST_EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
SILENCE_S = 2 * HEARTBEAT_S + 1
"""Nothing heard for so long while a request stands: it is lost."""

ACK_WAIT_S = 3600.0
"""A worker acknowledges after its commit; a redelivery before that would only be thrown away."""

DELIVERY_OVERHEAD_BYTES = 1024
"""What the server counts beside the data, generously: subjects and headers."""

EPHEMERAL_LINGER_S = 60.0
LONGEST_PAUSE_S = 1.0


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
        stream: str,
        durable: str | None,
        start_seq: int,
        subject: str | None,
        max_bytes: int,
        *,
        has_holes: bool,
    ) -> None:
        self._broker = broker
        self._stream = stream
        self._durable = durable
        self._name = durable or ""
        self._subject = subject
        self._has_holes = has_holes or subject is not None
        self._max_bytes = max(max_bytes, broker.max_payload_bytes + DELIVERY_OVERHEAD_BYTES)
        self._created = ""
        self._last_seq = max(0, start_seq - 1)
        """Last sequence taken in from the broker; the next one must be behind it."""
        self._last_stored_ns = 0
        self._consumer_seq = 0
        self._ready: deque[Message] = deque()
        self._ready_bytes = 0
        self._asked_bytes = 0
        self._asked_messages = 0
        self._acks: deque[tuple[int, str]] = deque()
        self._heard_at = 0.0
        self._arrived = asyncio.Event()
        self._trouble = asyncio.Event()
        self._why = ""
        self._failure: BaseException | None = None
        self._subscription: Subscription | None = None
        self._tender: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] = lambda: None

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

        `durable` None: a consumer that vanishes with us.

        Without `subject` and `has_holes` every sequence must come; where the stream begins later
        than `start_seq`, reading begins there: the envelope's header tells the reader what is
        missing.
        """
        self = cls(broker, stream, durable, start_seq, subject, max_bytes, has_holes=has_holes)
        state = await self._look()
        if state.first_seq > self._last_seq + 1:
            self._last_seq = state.first_seq - 1
        await self._make()
        self._unwatch = broker.watch(lambda: self._doubt("connection"))
        self._tender = asyncio.create_task(self._tend(), name=f"consumer {stream}")
        self._tender.add_done_callback(self._tended)
        return self

    async def next(self, timeout_s: float | None) -> Message | None:
        """Give the next message; None when none came within `timeout_s` (None: wait for ever).

        Raises `PgfloError`: BROKER_WENT_BACK, BROKER_GAP, BROKER_SETTINGS, BROKER_UNREACHABLE
        (closed).
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
        if not self._asked_messages:
            await self._ask()
        return message

    async def ack(self, seq: int) -> None:
        """Tell the broker that everything up to `seq` is done.

        For those who watch: no reading depends on it.
        """
        subject = ""
        while self._acks and self._acks[0][0] <= seq:
            subject = self._acks.popleft()[1]
        if subject and self._broker.is_connected:
            await self._broker.nc.publish(subject)

    async def close(self) -> None:
        """Stop reading. The durable consumer stays, for those who watch."""
        self._unwatch()
        if self._tender is not None:
            self._tender.cancel()
            await asyncio.wait([self._tender])
        await self._unsubscribe()

    async def _on_message(self, message: Msg) -> None:
        self._heard_at = time.monotonic()
        delivery = read_ack_subject(message.reply)
        if delivery is not None:
            self._take(message, delivery)
            return
        remark, text = read_remark(message)
        if remark is Remark.BROKEN:
            self._doubt(text)
        elif remark is Remark.ENDED:
            self._asked_bytes = self._asked_messages = 0
            await self._ask()
        else:
            delivered = (message.headers or {}).get("Nats-Last-Consumer", "")
            if delivered.isdigit() and int(delivered) > self._consumer_seq:
                self._doubt("a message was lost on the way")

    def _take(self, message: Msg, delivery: Delivery) -> None:
        size = len(message.data)
        self._asked_messages = max(0, self._asked_messages - 1)
        self._asked_bytes -= size + DELIVERY_OVERHEAD_BYTES // 4
        if self._asked_bytes <= 0:
            self._asked_bytes = self._asked_messages = 0
        if delivery.consumer_seq != self._consumer_seq + 1:
            self._doubt("a message was lost on the way")
            return
        self._consumer_seq = delivery.consumer_seq
        if delivery.stream_seq <= self._last_seq:
            self._doubt("a message came again")
            return
        if not self._has_holes and delivery.stream_seq != self._last_seq + 1:
            self._doubt("a sequence is missing")
            return
        self._last_seq = delivery.stream_seq
        self._last_stored_ns = delivery.stored_ns
        self._ready.append(Message(message.data, delivery.stream_seq, message.subject))
        self._ready_bytes += size
        if self._durable is not None:
            self._acks.append((delivery.stream_seq, message.reply))
        self._arrived.set()

    async def _ask(self) -> None:
        """Request as much as there is room for, unless a request stands or the room is small."""
        room = self._max_bytes - self._ready_bytes
        least = min(self._max_bytes // 2, self._broker.max_payload_bytes) + DELIVERY_OVERHEAD_BYTES
        subscription = self._subscription
        if self._asked_messages or room < least or subscription is None or self._trouble.is_set():
            return
        self._asked_bytes, self._asked_messages = room, REQUEST_MESSAGES
        self._heard_at = time.monotonic()
        request = {
            "batch": REQUEST_MESSAGES,
            "max_bytes": room,
            "expires": int(REQUEST_EXPIRES_S * 1e9),
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        try:
            await self._broker.nc.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}",
                orjson.dumps(request),
                reply=subscription.subject,
            )
        except nats.errors.Error as error:
            self._doubt(str(error))

    async def _tend(self) -> None:
        """Wait for trouble and begin anew, for as long as this consumer lives."""
        pause_s = 0.0
        while True:
            began = self._last_seq
            await self._wait_trouble()
            await asyncio.sleep(pause_s)
            log.debug(
                "consumer begins anew", stream=self._stream, after=self._last_seq, why=self._why
            )
            await self._begin_anew()
            fruitless = self._last_seq == began
            pause_s = min(max(2 * pause_s, 0.05), LONGEST_PAUSE_S) if fruitless else 0.0

    def _tended(self, tender: asyncio.Task[None]) -> None:
        if not tender.cancelled() and (error := tender.exception()) is not None:
            self._failure = error
            self._arrived.set()

    async def _wait_trouble(self) -> None:
        while not self._trouble.is_set():
            silence_s = time.monotonic() - self._heard_at
            if self._asked_messages and silence_s >= SILENCE_S:
                self._why = f"nothing heard for {silence_s:.0f} s"
                return
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._trouble.wait()
            except TimeoutError:
                continue

    async def _begin_anew(self) -> None:
        await self._unsubscribe()
        await self._broker.wait_connected()
        self._trouble.clear()
        state = await self._look()
        await self._check_stream(state)
        try:
            await self._make()
        except PgfloError as error:
            if not is_missing(error):
                raise
            self._doubt(error.detail)

    async def _check_stream(self, state: StreamState) -> None:
        """See that the stream still holds what it delivered, and what must come next."""
        if state.last_seq < self._last_seq:
            raise self._went_back(f"ends with {state.last_seq}, after delivering {self._last_seq}")
        if self._last_stored_ns:
            message = await message_at(self._broker, self._stream, self._last_seq)
            if message is not None and nanoseconds(message.time) != self._last_stored_ns:
                raise self._went_back(f"holds another message {self._last_seq} than it delivered")
        if not self._has_holes and state.first_seq > self._last_seq + 1:
            raise PgfloError(
                BROKER_GAP,
                f"stream {self._stream} begins with {state.first_seq}, "
                f"but {self._last_seq + 1} was not read yet",
                stream=self._stream,
                seq=self._last_seq + 1,
            )

    async def _look(self) -> StreamState:
        try:
            info = await self._broker.ask(
                f"STREAM.INFO.{self._stream}", {}, patience_s=math.inf if self._created else 30.0
            )
        except PgfloError as error:
            if is_missing(error) and self._created:
                raise self._went_back("is gone") from None
            raise
        state = state_of(info)
        self._created = self._created or state.created
        if state.created != self._created:
            raise self._went_back(f"was made anew at {state.created}")
        return state

    async def _make(self) -> None:
        """Make the consumer at the broker, behind what was delivered, and ask for messages."""
        self._name = self._durable or self._broker.nc.new_inbox().rpartition(".")[2]
        config = self._config(max(1, self._last_seq + 1))
        if self._durable is not None:
            await self._delete()
        tail = f".{self._subject}" if self._subject else ""
        told = await self._broker.ask(
            f"CONSUMER.CREATE.{self._stream}.{self._name}{tail}",
            {"stream_name": self._stream, "config": config},
            patience_s=math.inf if self._tender else 30.0,
        )
        wrong = [
            f"{key} is {told['config'].get(key)!r}, not {value!r}"
            for key, value in config.items()
            if told["config"].get(key) != value
        ]
        if wrong:
            raise PgfloError(
                BROKER_SETTINGS,
                f"consumer of {self._stream}: {'; '.join(wrong)}",
                stream=self._stream,
            )
        self._acks.clear()
        self._consumer_seq = 0
        self._asked_bytes = self._asked_messages = 0
        self._subscription = await self._broker.nc.subscribe(
            self._broker.nc.new_inbox(),
            cb=self._on_message,
            pending_msgs_limit=0,
            pending_bytes_limit=0,
        )
        await self._ask()

    def _config(self, start_seq: int) -> dict[str, Any]:
        config: dict[str, Any] = {
            "name": self._name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start_seq,
            "replay_policy": "instant",
        }
        if self._durable is None:
            config |= {
                "ack_policy": "none",
                "inactive_threshold": int(EPHEMERAL_LINGER_S * 1e9),
                "mem_storage": True,
            }
        else:
            config |= {
                "durable_name": self._durable,
                "ack_policy": "all",
                "ack_wait": int(ACK_WAIT_S * 1e9),
                "max_ack_pending": -1,
                "max_deliver": -1,
            }
        if self._subject:
            config["filter_subject"] = self._subject
        return config

    async def _delete(self) -> None:
        try:
            await self._broker.ask(f"CONSUMER.DELETE.{self._stream}.{self._name}", {})
        except PgfloError as error:
            if not is_missing(error):
                raise

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is None or self._broker.nc.is_closed:
            return
        try:
            await subscription.unsubscribe()
        except nats.errors.Error:
            return  # the connection is being closed, and the subscription with it

    def _doubt(self, why: str) -> None:
        self._why = why
        self._trouble.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _went_back(self, what: str) -> PgfloError:
        return PgfloError(BROKER_WENT_BACK, f"stream {self._stream} {what}", stream=self._stream)


def nanoseconds(time_text: str) -> int:
    """Read a time as the server prints it (RFC 3339 with up to 9 digits, UTC) to ns since 1970."""
    import calendar

    whole, _, rest = time_text.rstrip("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1_000_000_000 + int((rest or "0").ljust(9, "0")[:9])
