"""One checked connection to the broker, which reconnects by itself for as long as it is open.

Upstream: `NatsSettings`. Downstream: the rest of this package; nobody else makes a NATS client.
Invariant: the first connect fails at once with a kind from `pgflo.errors`; later losses are healed
behind the scenes and told by `generation`. No text made here contains credentials.
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import TYPE_CHECKING, Any, TypeVar

import nats.errors
import orjson
import structlog
from nats.aio.client import Client

from pgflo.broker.address import Address, read_address, tls_context
from pgflo.broker.attempts import Reports, choose_server, explain, plain_text, revive
from pgflo.errors import (
    BROKER_DENIED,
    BROKER_NO_JETSTREAM,
    BROKER_REFUSED,
    BROKER_TOO_OLD,
    BROKER_UNREACHABLE,
    PgfloError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.js import JetStreamContext

    from pgflo.config.settings import NatsSettings

log = structlog.get_logger("pgflo.broker")

Result = TypeVar("Result")

OLDEST_SERVER = (2, 10)
"""Older servers silently ignore stream and consumer settings that we rely on."""

CONNECT_TIMEOUT_S = 5
"""For each step of one attempt (TCP, INFO, TLS, CONNECT)."""

PING_INTERVAL_S = 5
"""A peer that answers none of two pings is gone: a half-open connection is found in 10 to 15 s."""

PENDING_BYTES = 256 * 1024 * 1024
"""Room in the client's send buffer. Publishers keep far below it with windows of their own: the
client's way of waiting when it is full swallows task cancellation."""

NATS_HEADER_BYTES = 512
"""Reserved for NATS headers out of the server's max_payload."""

CLIENT_ERRORS = (nats.errors.Error, OSError, RuntimeError)
"""What the client raises when it cannot send; the event loop's RuntimeError is for a lost socket.
"""

JETSTREAM_OFF = (10039, 10076)
"""JetStream is not enabled on the server, or for this account."""

API_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
RETRY_PAUSE_S = 0.1


class Broker:
    """A connection to NATS with JetStream. Made by `connect`; `close` ends it."""

    def __init__(
        self, nc: Client, settings: NatsSettings, address: Address, reports: Reports
    ) -> None:
        self.nc = nc
        self._reports = reports
        self.js: JetStreamContext = nc.jetstream(timeout=API_TIMEOUT_S)
        self.settings = settings
        self.where = address.text
        """Hosts and ports, for messages."""
        self.generation = 0
        """Grows by one with every reconnect."""
        self._watchers: set[Callable[[], None]] = set()
        self._closing = False
        self._client_gave_up = False
        self._reviver: asyncio.Task[None] | None = None

    @property
    def max_payload_bytes(self) -> int:
        """The largest envelope this server takes: its max_payload less room for NATS headers."""
        return int(self.nc.max_payload) - NATS_HEADER_BYTES

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands at this moment, as far as anybody knows."""
        return bool(self.nc.is_connected)

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call `watcher` at every loss, reconnect and close; the result ends that."""
        self._watchers.add(watcher)
        return lambda: self._watchers.discard(watcher)

    async def wait_generation_change(self, generation: int) -> int:
        """Return the generation once it is another than `generation`.

        Raises `PgfloError` (BROKER_UNREACHABLE) when the connection is closed.
        """
        await self._wait(lambda: self.generation != generation)
        return self.generation

    async def wait_connected(self) -> None:
        """Return when the connection stands. BROKER_UNREACHABLE when it is closed."""
        await self._wait(lambda: self.is_connected)

    async def attempt(
        self, exchange: Callable[[], Awaitable[Result]], timeout_s: float = API_TIMEOUT_S
    ) -> Result:
        """Await one question and its answer; TimeoutError as soon as the connection is lost.

        The client would wait on: what was sent into a lost connection is never answered. And it
        forgets a cancellation that comes together with an answer (`asyncio.wait_for` before Python
        3.12): that is made up for here, or the task would go on for ever.
        """
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task is not None else 0
        async with asyncio.timeout(timeout_s) as limit:
            stop = self.watch(lambda: None if limit.expired() else limit.reschedule(0.0))
            try:
                result = await exchange()
            finally:
                stop()
            if task is not None and task.cancelling() > cancelled_before:
                raise asyncio.CancelledError
            return result

    async def _wait(self, condition: Callable[[], bool]) -> None:
        changed = asyncio.Event()
        stop = self.watch(changed.set)
        try:
            while not condition():
                self.check_open()
                changed.clear()
                await changed.wait()
        finally:
            stop()

    def check_open(self) -> None:
        """Raise BROKER_UNREACHABLE when this connection will never come back."""
        if self._client_gave_up or self._closing:
            why = "was closed" if self._closing else "was ended by the server"
            raise PgfloError(BROKER_UNREACHABLE, f"the connection to {self.where} {why}")

    async def request_json(
        self, subject: str, payload: dict[str, Any], timeout_s: float = API_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask JetStream's API (`subject` below `$JS.API.`) once.

        Raises `PgfloError`: BROKER_UNREACHABLE without an answer, BROKER_NO_JETSTREAM, else
        BROKER_REFUSED with `err_code` in its context.
        """
        self.check_open()
        asked = orjson.dumps(payload) if payload else b""
        try:
            answer = await self.attempt(
                lambda: self.nc.request(f"$JS.API.{subject}", asked, timeout=2 * timeout_s),
                timeout_s,
            )
        except nats.errors.NoRespondersError:
            raise PgfloError(
                BROKER_NO_JETSTREAM, f"nothing at {self.where} serves JetStream requests"
            ) from None
        except (*CLIENT_ERRORS, TimeoutError) as error:
            if (denied := self._reports.denied(subject)) is not None:
                raise PgfloError(BROKER_DENIED, f"{self.where}: {denied}") from None
            cause = f": {error}" if str(error) else ""
            raise PgfloError(BROKER_UNREACHABLE, f"no answer from {self.where}{cause}") from None
        told: dict[str, Any] = orjson.loads(answer.data)
        if (refused := told.get("error")) is not None:
            code = int(refused.get("err_code", 0))
            kind = BROKER_NO_JETSTREAM if code in JETSTREAM_OFF else BROKER_REFUSED
            raise PgfloError(
                kind,
                f"{subject}: {refused.get('description', 'refused')} ({code})",
                err_code=code,
                status=int(refused.get("code", 0)),
            )
        return told

    async def ask(
        self, subject: str, payload: dict[str, Any], *, patience_s: float = 30.0
    ) -> dict[str, Any]:
        """`request_json` for what may be asked twice: repeated through a restart of the broker."""
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + patience_s, RETRY_PAUSE_S
        while True:
            try:
                async with asyncio.timeout_at(deadline if patience_s < math.inf else None):
                    await self.wait_connected()
                return await self.request_json(subject, payload)
            except TimeoutError:
                raise PgfloError(
                    BROKER_UNREACHABLE, f"no connection to {self.where} for {patience_s:g} s"
                ) from None
            except PgfloError as error:
                if not passes(error) or loop.time() + pause_s > deadline:
                    raise
                self.check_open()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)

    async def send(
        self,
        subject: str,
        data: bytes = b"",
        *,
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> bool:
        """Hand a message to the client; False when it cannot take it just now.

        True says nothing about arrival: whoever needs that asks for an answer at `reply`.
        """
        try:
            await self.nc.publish(subject, data, reply=reply, headers=headers)
        except CLIENT_ERRORS as error:
            log.debug("not sent", subject=subject, error=plain_text(error))
            return False
        return True

    async def subscribe(self, subject: str, take: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Listen on `subject`, through reconnects. BROKER_UNREACHABLE when closed."""
        try:
            # No limits: the client would drop what exceeds them. Senders are bounded by windows.
            return await self.nc.subscribe(
                subject, cb=take, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except CLIENT_ERRORS as error:
            raise PgfloError(
                BROKER_UNREACHABLE, f"cannot listen at {self.where}: {error}"
            ) from None

    async def unsubscribe(self, subscription: Subscription | None) -> None:
        """End a subscription; what it has not taken yet is thrown away."""
        if subscription is None or self.nc.is_closed:
            return
        try:
            await subscription.unsubscribe()
        except CLIENT_ERRORS as error:
            # Closed meanwhile, and the subscription with it.
            log.debug("unsubscribing", error=plain_text(error))

    async def close(self) -> None:
        """End the connection within `CLOSE_TIMEOUT_S`. Again and again at no cost."""
        if self._closing:
            return
        self._closing = True
        self._notify()
        if self._reviver is not None:
            self._reviver.cancel()
        # In a task of its own: the client's close waits for a peer that may be frozen, and is
        # cancelled itself when it meets its own reconnecting task.
        closing = asyncio.create_task(self.nc.close())
        await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_S)
        if not closing.done():
            closing.cancel()
            await asyncio.wait([closing])
        if not closing.cancelled() and (error := closing.exception()) is not None:
            log.debug("closing the broker connection", error=plain_text(error))

    def keep_alive(self) -> None:
        """Make attempts to reconnect go on even where the client's own task dies of a surprise."""
        self._reviver = asyncio.create_task(revive(self.nc), name="broker revive")

    def _notify(self) -> None:
        for watcher in tuple(self._watchers):
            watcher()

    async def _lost(self) -> None:
        if not self._closing:
            log.warning("broker connection lost; reconnecting", broker=self.where)
        self._notify()

    async def _came_back(self) -> None:
        self.generation += 1
        log.info("broker connection is back", broker=self.where, generation=self.generation)
        self._notify()

    async def _ended(self) -> None:
        if not self._closing:
            self._client_gave_up = True
            log.error(
                "broker ended the connection", broker=self.where, cause=str(self.nc.last_error)
            )
        self._notify()


def passes(error: PgfloError) -> bool:
    """Whether an API error is one that a restarting or electing broker gives for a while."""
    return error.kind in (BROKER_UNREACHABLE, BROKER_NO_JETSTREAM) or (
        error.context.get("status") in (500, 503)
        # Out of resources; a consumer of that name that is another one.
        and error.context.get("err_code") not in (10047, 10023, 10028, 10012)
    )


async def connect(settings: NatsSettings, *, name: str) -> Broker:
    """Open a connection that shows up at the server as `name`.

    Raises `PgfloError`: BROKER_URL, BROKER_UNREACHABLE, BROKER_DENIED, BROKER_TLS, BROKER_TOO_OLD,
    BROKER_NO_JETSTREAM. Takes at most a few `CONNECT_TIMEOUT_S` per server named.
    """
    address = read_address(settings)
    nc = Client()
    reports = Reports(len(address.servers))
    broker = Broker(nc, settings, address, reports)
    try:
        await nc.connect(
            servers=list(address.servers),
            name=name,
            error_cb=reports.take,
            disconnected_cb=broker._lost,
            reconnected_cb=broker._came_back,
            closed_cb=broker._ended,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0,
            reconnect_to_server_handler=choose_server(nc),
            connect_timeout=CONNECT_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            pending_size=PENDING_BYTES,
            tls=tls_context(settings, address),
            user=address.guard_user(nc),
            password=address.guard_password(nc),
            token=address.guard_token(nc),
            user_credentials=settings.creds,
            inbox_prefix="_INBOX",
        )
        reports.is_connected = True
        broker.keep_alive()
        await _check(broker)
    except PgfloError:
        await broker.close()
        raise
    except (*CLIENT_ERRORS, TimeoutError, ImportError) as error:
        await broker.close()
        raise explain(error, address) from None
    return broker


async def _check(broker: Broker) -> None:
    version = str(broker.nc._server_info.get("version", ""))
    number = re.match(r"v?(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < OLDEST_SERVER:
        needed = ".".join(map(str, OLDEST_SERVER))
        raise PgfloError(
            BROKER_TOO_OLD,
            f"nats-server at {broker.where} is version {version or 'unknown'}; {needed} is needed",
        )
    await broker.ask("INFO", {}, patience_s=2.0)
