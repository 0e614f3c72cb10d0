"""The one publisher of a group's change stream: each envelope is stored once, and in order.

Upstream: replicator hands over envelopes. Downstream: JetStream stores them; `on_stored` tells the
ledger.
Invariant: message n of a run can only be stored as sequence `base + n`. Every message demands its
predecessor (Nats-Expected-Last-Sequence) and has its own id (`<incarnation>/<run>/<n>`), so what
the stream ends with always says what is stored, however many answers were lost. Any doubt (a
silence, a lost connection, a refusal) is settled in one way: ask where the stream ends, then send
the rest again.

Example: 5 to 8 are sent, 6 is lost with the connection. 7 and 8 are refused (10071). The stream
ends with 5, whose id is ours: 5 is reported stored, 6 to 8 are sent again. Were the id not ours,
somebody else would publish too (BROKER_CHAIN); did the stream end before 5, or hold another 5, it
lost what it had acknowledged (BROKER_WENT_BACK).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from pgflo.broker.acknowledgement import TOO_LARGE, Answer, Inbox
from pgflo.broker.room import LOOK_S, STORE_OVERHEAD_BYTES, Room, is_full
from pgflo.broker.steady import SteadyStream
from pgflo.broker.stored import MESSAGE_ID, last_envelope, message_at
from pgflo.broker.window import Numbered, Window
from pgflo.errors import BROKER_CHAIN, BROKER_PAYLOAD, PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgflo._core import Envelope
    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.broker.stored import StoredEnvelope
    from pgflo.config.settings import NatsSettings

log = structlog.get_logger("pgflo.broker")

WINDOW_BYTES = 16 * 1024 * 1024
"""Sent but not acknowledged. At 500 MB/s that is 30 ms: far more than a round trip needs."""

DEADLINE_S = 5.0
"""A silence of this length while answers are due is taken for a loss."""

YIELD_BYTES = 1024 * 1024
"""Let the client's writer run when this much waits in its buffer."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
"""Between two recoveries of which the first brought nothing."""

SECOND_LOOK_S = 1.0
"""A new leader of a replicated stream may lag for a moment."""


class ChangePublisher:
    """Publishes one run of a group's change stream. `open` makes it; one task calls `publish`."""

    def __init__(
        self,
        broker: Broker,
        names: Names,
        settings: NatsSettings,
        last: StoredEnvelope | None,
        window: Window,
        stream: SteadyStream,
        *,
        window_bytes: int,
        deadline_s: float,
    ) -> None:
        self.last = last
        """What the stream ended with when this publisher was opened."""
        self.on_stored: Callable[[Envelope, float], None] = lambda _envelope, _time: None
        """Called in order with each envelope known to be stored, and the monotonic time of that."""
        self.failed = asyncio.Event()
        """Set when `publish` and `drain` raise from now on."""
        self._failure: BaseException | None = None
        self._broker = broker
        self._stream = stream
        self._subject = names.changes_subject
        self._room = Room(broker, stream.name, settings, "reading from the source waits")
        self._window = window
        self._window_bytes = window_bytes
        self._deadline_s = deadline_s
        self._flowing = True
        """Whether what is published is sent at once. Otherwise `_recover` will send it."""
        self._round = 0
        """Number of recoveries: refusals of what was sent before the last one mean nothing."""
        self._refusal: Answer | None = None
        self._progress_at = 0.0
        self._moved = asyncio.Event()
        self._trouble = asyncio.Event()
        self._inbox = Inbox(broker, self._take)
        self._unwatch = broker.watch(self._doubt)
        self._tender = asyncio.create_task(self._tend(), name=f"publisher {stream.name}")
        self._tender.add_done_callback(self._tended)

    @classmethod
    async def open(
        cls,
        broker: Broker,
        names: Names,
        settings: NatsSettings,
        *,
        run_id: str,
        window_bytes: int = WINDOW_BYTES,
        deadline_s: float = DEADLINE_S,
    ) -> ChangePublisher:
        """Continue the stream where it ends (see `last`).

        `run_id` must never have been used before. At most `window_bytes` are sent ahead of their
        acknowledgements; memory is twice that.
        """
        stream = SteadyStream(broker, names.changes_stream)
        state = await stream.open()
        last = await last_envelope(broker, stream.name)
        self = cls(
            broker,
            names,
            settings,
            last,
            Window(
                last.seq if last else state.last_seq,
                last.message_id if last else None,
                f"{names.incarnation}/{run_id}/",
            ),
            stream,
            window_bytes=window_bytes,
            deadline_s=deadline_s,
        )
        try:
            await self._inbox.open()
        except BaseException:
            await self.close()
            raise
        return self

    @property
    def in_flight_bytes(self) -> int:
        """Bytes published and not known to be stored."""
        return self._window.bytes

    @property
    def full_since(self) -> float | None:
        """Monotonic time since which the stream is full and cannot grow; None while it can."""
        return self._room.full_since

    @property
    def full_detail(self) -> str:
        """Why the stream cannot grow."""
        return self._room.detail

    async def publish(self, envelope: Envelope) -> None:
        """Send one envelope, waiting while the window is full. Returns before it is stored.

        Does not return while the stream is full and cannot grow. Raises the failure of this
        publisher, once there is one: BROKER_CHAIN, BROKER_WENT_BACK, BROKER_PAYLOAD, BROKER_FULL
        (an empty stream has no room for it), BROKER_UNREACHABLE (closed).
        """
        size = len(envelope.data)
        if size > self._broker.max_payload_bytes:
            raise too_large(size, self._broker)
        while self._window and self._window.bytes + size > self._window_bytes:
            await self._wait_moved()
        self._raise_failure()
        if not self._window:
            self._progress_at = time.monotonic()
        self._window.add(envelope)
        await self._send_unsent()

    async def drain(self) -> None:
        """Return when everything published is stored. Raises what `publish` raises."""
        while self._window:
            await self._wait_moved()
        self._raise_failure()

    async def verify(self) -> None:
        """Compare the stream with what it has acknowledged; take note of what it stored in silence.

        Raises `PgfloError`: BROKER_WENT_BACK, BROKER_CHAIN. Runs by itself after every reconnect.
        """
        acknowledged = self._window.stored_seq
        state = await self._stream.look()
        if state.last_seq < acknowledged:
            await asyncio.sleep(SECOND_LOOK_S)
            state = await self._stream.look()
        if state.last_seq < acknowledged:
            raise self._stream.went_back(
                f"ends with {state.last_seq}, after acknowledging {acknowledged}"
            )
        await self._check_end(state.last_seq, acknowledged)
        self._settle(state.last_seq)

    async def close(self) -> None:
        """Stop without waiting for what is in flight; `drain` first to lose nothing."""
        self._unwatch()
        self._tender.cancel()
        await asyncio.wait([self._tender])
        await self._inbox.close()

    async def _send_unsent(self) -> None:
        """Send, in order, what was not sent since the last recovery."""
        while self._flowing and (numbered := self._window.unsent()) is not None:
            await self._send(numbered)
            if self._broker.nc.pending_data_size > YIELD_BYTES:
                await asyncio.sleep(0)

    async def _send(self, numbered: Numbered) -> None:
        seq = numbered.seq
        self._window.mark_sent(seq)
        is_sent = await self._broker.send(
            self._subject,
            numbered.envelope.data,
            reply=self._inbox.reply_subject(f"{self._round}.{seq}"),
            headers={
                MESSAGE_ID: self._window.id_of(seq) or "",
                "Nats-Expected-Last-Sequence": str(seq - 1),
            },
        )
        if not is_sent:
            self._doubt()

    def _take(self, tag: str, answer: Answer) -> None:
        sent_in, _, number = tag.partition(".")
        seq = int(number)
        if answer.err_code == 0:
            if answer.seq != seq:
                self._fail(self._broken(f"our message {seq} was stored as {answer.seq}", seq))
            else:
                self._settle(seq)
        elif int(sent_in) == self._round and self._flowing:
            self._refusal = answer
            self._doubt()

    def _settle(self, seq: int) -> None:
        now = time.monotonic()
        for envelope in self._window.settle(seq):
            self._progress_at = now
            self._room.tell_taken()
            try:
                self.on_stored(envelope, now)
            except Exception as error:  # noqa: BLE001 - raised again where it can stop somebody
                self._fail(error)
        self._moved.set()

    def _doubt(self) -> None:
        self._flowing = False
        self._trouble.set()

    async def _tend(self) -> None:
        """Wait for trouble and put it right, for as long as this publisher lives."""
        pause_s = 0.0
        while True:
            await self._wait_trouble()
            stored_before = self._window.stored_seq
            await asyncio.sleep(pause_s)
            await self._recover()
            fruitless = self._window.stored_seq == stored_before and bool(self._window)
            pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S) if fruitless else 0.0

    def _tended(self, tender: asyncio.Task[None]) -> None:
        if not tender.cancelled() and (error := tender.exception()) is not None:
            self._fail(error)

    async def _wait_trouble(self) -> None:
        while not self._trouble.is_set():
            silence_s = time.monotonic() - self._progress_at
            due_s = self._deadline_s - silence_s if self._window else self._deadline_s
            if due_s <= 0:
                log.warning(
                    "no acknowledgement in time; asking the broker",
                    stream=self._stream.name,
                    silence_s=round(silence_s, 1),
                    in_flight_bytes=self._window.bytes,
                )
                return
            try:
                async with asyncio.timeout(due_s):
                    await self._trouble.wait()
            except TimeoutError:
                continue

    async def _recover(self) -> None:
        """Find out what is stored, answer a refusal, send the rest again.

        Only after the broker has answered on this connection: what was sent on it before has then
        left our buffers, so sending again does not pile up.
        """
        self._flowing = False
        self._round += 1
        refusal, self._refusal = self._refusal, None
        await self._broker.wait_connected()
        self._trouble.clear()
        await self.verify()
        if refusal is not None:
            await self._answer_refusal(refusal)
        if self._trouble.is_set():
            return
        self._progress_at = time.monotonic()
        self._window.rewind()
        self._flowing = True
        await self._send_unsent()

    async def _answer_refusal(self, refusal: Answer) -> None:
        log.debug(
            "envelope refused",
            stream=self._stream.name,
            code=refusal.err_code,
            text=refusal.text,
        )
        if refusal.err_code == TOO_LARGE and self._window:
            raise too_large(len(self._window.oldest().data), self._broker)
        if is_full(refusal):
            await self._wait_room()

    async def _wait_room(self) -> None:
        """Return when the stream was enlarged, or seems to have room for the next envelope."""
        while self._window and not self._trouble.is_set():
            state = await self._stream.look()
            needed = len(self._window.oldest().data) + STORE_OVERHEAD_BYTES
            if self.full_since is not None and state.bytes + needed <= state.max_bytes:
                return
            if await self._room.grow():
                return
            self._room.tell_full(state, needed)
            await asyncio.sleep(LOOK_S)

    async def _check_end(self, seq: int, acknowledged: int) -> None:
        """See that the message at the stream's end is the one we know must be there."""
        message = await message_at(self._broker, self._stream.name, seq) if seq else None
        expected = self._window.id_of(seq)
        if message is None:
            # Purged by hand. Sequences still tell how far the chain got; readers see the gap.
            if seq > max(acknowledged, self._window.sent_seq):
                raise self._broken(f"the stream ends with {seq}, which we did not send", seq)
        elif expected is not None and message.message_id != expected:
            if seq <= acknowledged:
                raise self._stream.went_back(f"holds another message {seq} than it acknowledged")
            raise self._broken(f"somebody else stored message {seq}", seq)

    async def _wait_moved(self) -> None:
        self._raise_failure()
        self._moved.clear()
        await self._moved.wait()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._flowing = False
            self.failed.set()
        self._moved.set()

    def _broken(self, what: str, seq: int) -> PgfloError:
        name = self._stream.name
        return PgfloError(BROKER_CHAIN, f"stream {name}: {what}", stream=name, seq=seq)


def too_large(size: int, broker: Broker) -> PgfloError:
    """Make the error for an envelope that the server would not take."""
    return PgfloError(
        BROKER_PAYLOAD,
        f"an envelope of {size} bytes; {broker.where} takes {broker.max_payload_bytes}",
        bytes=size,
    )
