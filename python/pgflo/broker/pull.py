"""One consumer at the broker, and the one request for messages that stands at it.

Upstream: `consumer` decides when to begin anew and how much may come. Downstream: JetStream.
Invariant: one request at a time, never for more bytes than allowed; every setting of the consumer
is read back. A stall between two requests is one round trip, about 0.2 ms for every `max_bytes`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import orjson

from pgflo.broker.delivery import Delivery, Remark, read_ack_subject, read_remark
from pgflo.broker.stored import CONSUMER_DIFFERS, is_missing
from pgflo.errors import BROKER_SETTINGS, PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from pgflo.broker.connection import Broker

REQUEST_MESSAGES = 10_000
"""Upper bound of one request, in messages; its bytes are what really limits it."""

REQUEST_EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
"""The broker gives a sign of life this often while it has nothing to deliver."""

SILENCE_S = 2 * HEARTBEAT_S + 1
"""Nothing heard for so long while a request stands: it is lost."""

ACK_WAIT_S = 3600.0
"""A worker acknowledges after its commit; a redelivery before that would only be thrown away."""

DELIVERY_OVERHEAD_BYTES = 1024
"""What the server counts beside the data, generously: subjects and headers."""

EPHEMERAL_LINGER_S = 60.0

RIVAL_PAUSE_S = 0.1
"""Between two attempts to make a consumer that somebody else makes too."""


class Pull:
    """A consumer of one stream at the broker. `make` may be called again and again."""

    def __init__(
        self,
        broker: Broker,
        stream: str,
        durable: str | None,
        subject: str | None,
        *,
        take: Callable[[Msg, Delivery], None],
        doubt: Callable[[str], None],
        allow: Callable[[], int],
    ) -> None:
        self._broker = broker
        self._stream = stream
        self._durable = durable
        self._name = durable or ""
        self._subject = subject
        self._take = take
        self._doubt = doubt
        self._allow = allow
        self._delivered = 0
        self._asked_bytes = 0
        self._asked_messages = 0
        self._heard_at = 0.0
        self._inbox = ""
        self._request = 0
        """Number of the last request: what is said about earlier ones means nothing."""
        self._subscription: Subscription | None = None

    @property
    def silence_s(self) -> float:
        """How long nothing was heard although a request stands; 0 when none stands."""
        return time.monotonic() - self._heard_at if self._asked_messages else 0.0

    async def make(self, start_seq: int, *, patience_s: float) -> None:
        """Make the consumer anew, beginning at `start_seq`, and ask for messages.

        Raises `PgfloError`: BROKER_SETTINGS, BROKER_UNREACHABLE, BROKER_REFUSED.
        """
        await self.close()
        self._name = self._durable or self._broker.nc.new_inbox().rpartition(".")[2]
        config = self._config(max(1, start_seq))
        deadline = time.monotonic() + patience_s
        while (told := await self._create(config, patience_s)) is None:
            if time.monotonic() > deadline:
                raise PgfloError(
                    BROKER_SETTINGS,
                    f"consumer {self._name} of {self._stream} is made by others all the time",
                    stream=self._stream,
                )
            await asyncio.sleep(RIVAL_PAUSE_S)
        self._compare(config, told["config"])
        self._delivered = self._asked_bytes = self._asked_messages = 0
        # A new inbox: what the last consumer still sends goes to the old one.
        self._inbox = self._broker.nc.new_inbox()
        self._subscription = await self._broker.subscribe(f"{self._inbox}.*", self._on_message)
        await self.ask()

    async def ask(self) -> None:
        """Request as much as is allowed now, unless a request stands."""
        allowed = self._allow()
        if self._asked_messages or allowed <= 0 or self._subscription is None:
            return
        self._request += 1
        self._asked_bytes, self._asked_messages = allowed, REQUEST_MESSAGES
        self._heard_at = time.monotonic()
        request = {
            "batch": REQUEST_MESSAGES,
            "max_bytes": allowed,
            "expires": int(REQUEST_EXPIRES_S * 1e9),
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        is_sent = await self._broker.send(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}",
            orjson.dumps(request),
            reply=f"{self._inbox}.{self._request}",
        )
        if not is_sent:
            self._doubt("the connection was lost")

    async def close(self) -> None:
        """Stop listening. The consumer stays at the broker."""
        subscription, self._subscription = self._subscription, None
        self._asked_messages = 0
        await self._broker.unsubscribe(subscription)

    async def _on_message(self, message: Msg) -> None:
        self._heard_at = time.monotonic()
        delivery = read_ack_subject(message.reply)
        if delivery is not None:
            self._count(message)
            if delivery.consumer_seq != self._delivered + 1:
                self._doubt("a message was lost on the way")
            else:
                self._delivered += 1
                self._take(message, delivery)
        elif message.subject == f"{self._inbox}.{self._request}":
            await self._read_remark(message)

    async def _read_remark(self, message: Msg) -> None:
        remark, text = read_remark(message)
        if remark is Remark.BROKEN:
            self._doubt(text)
        elif remark is Remark.ENDED:
            self._asked_bytes = self._asked_messages = 0
            await self.ask()
        else:
            delivered = (message.headers or {}).get("Nats-Last-Consumer", "")
            if delivered.isdigit() and int(delivered) > self._delivered:
                self._doubt("a message was lost on the way")

    def _count(self, message: Msg) -> None:
        """Note when a request is over: one that is used up to the byte ends without a remark."""
        header_bytes = 0
        if message.headers:
            header_bytes = 12 + sum(len(k) + len(v) + 4 for k, v in message.headers.items())
        names_bytes = len(message.subject) + len(message.reply)
        self._asked_messages = max(0, self._asked_messages - 1)
        self._asked_bytes -= len(message.data) + header_bytes + names_bytes
        if self._asked_bytes <= 0:
            self._asked_bytes = self._asked_messages = 0

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

    def _compare(self, wanted: dict[str, Any], found: dict[str, Any]) -> None:
        wrong = [
            f"{key} is {found.get(key)!r}, not {value!r}"
            for key, value in wanted.items()
            if found.get(key) != value
        ]
        if wrong:
            raise PgfloError(
                BROKER_SETTINGS,
                f"consumer {self._name} of {self._stream}: {'; '.join(wrong)}",
                stream=self._stream,
            )

    async def _create(self, config: dict[str, Any], patience_s: float) -> dict[str, Any] | None:
        """Make the consumer in place of one that is there; None if there is another one again.

        A former holder of the name that wakes up makes it anew too, before it sees that it lost it.
        """
        if self._durable is not None:
            await self._delete(patience_s)
        tail = f".{self._subject}" if self._subject else ""
        try:
            return await self._broker.ask(
                f"CONSUMER.CREATE.{self._stream}.{self._name}{tail}",
                {"stream_name": self._stream, "config": config},
                patience_s=patience_s,
            )
        except PgfloError as error:
            if error.context.get("err_code") != CONSUMER_DIFFERS:
                raise
            return None

    async def _delete(self, patience_s: float) -> None:
        try:
            await self._broker.ask(
                f"CONSUMER.DELETE.{self._stream}.{self._name}", {}, patience_s=patience_s
            )
        except PgfloError as error:
            if not is_missing(error):
                raise
