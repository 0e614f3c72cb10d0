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
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nats.errors
import structlog

from pgflo.broker.acknowledgement import STREAM_FULL, TOO_LARGE, Answer, Inbox
from pgflo.broker.stored import MESSAGE_ID, StreamState, is_missing, message_at, state_of
from pgflo.broker.topology import OUT_OF_STORE, grow, last_envelope
from pgflo.errors import BROKER_CHAIN, BROKER_FULL, BROKER_PAYLOAD, BROKER_WENT_BACK, PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgflo._core import Envelope
    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.broker.topology import StoredEnvelope
    from pgflo.config.settings import NatsSettings

log = structlog.get_logger("pgflo.broker")

WINDOW_BYTES = 16 * 1024 * 1024
"""Sent but not acknowledged. At 500 MB/s that is 30 ms: far more than a round trip needs."""

DEADLINE_S = 5.0
"""A silence of this length while answers are due is taken for a loss."""

YIELD_BYTES = 1024 * 1024
"""Let the client's writer run when this much waits in its buffer."""

STORE_OVERHEAD_BYTES = 1024
"""What a message takes in the store beside its data, generously: subject, headers, record."""

FULL_LOOK_S = 0.2
"""Pause between two looks at a full stream."""

LONGEST_PAUSE_S = 1.0
SECOND_LOOK_S = 1.0


@dataclass(slots=True)
class _Sent:
    seq: int
    envelope: Envelope


class ChangePublisher:
    """Publishes one run of a group's change stream. `open` makes it; one task calls `publish`."""

    def __init__(
        self,
        broker: Broker,
        names: Names,
        settings: NatsSettings,
        *,
        run_id: str,
        window_bytes: int,
        deadline_s: float,
    ) -> None:
        self.last: StoredEnvelope | None = None
        """What the stream ended with when this publisher was opened."""
        self.in_flight_bytes = 0
        self.full_since: float | None = None
        """Monotonic time since which the stream is full and cannot grow; None while it takes
        envelopes."""
        self.full_detail = ""
        self.on_stored: Callable[[Envelope, float], None] = lambda _envelope, _time: None
        """Called in order with each envelope known to be stored, and the monotonic time of that."""
        self.failed = asyncio.Event()
        """Set when `publish` and `drain` raise from now on."""
        self._failure: BaseException | None = None
        self._broker = broker
        self._settings = settings
        self._stream = names.changes_stream
        self._subject = names.changes_subject
        self._id_prefix = f"{names.incarnation}/{run_id}/"
        self._window_bytes = window_bytes
        self._deadline_s = deadline_s
        self._created = ""
        self._base_seq = 0
        self._base_id: str | None = None
        self._stored_seq = 0
        self._sent_seq = 0
        self._window: deque[_Sent] = deque()
        self._flowing = False
        self._round = 0
        self._refusal: Answer | None = None
        self._progress_at = 0.0
        self._moved = asyncio.Event()
        self._trouble = asyncio.Event()
        self._inbox = Inbox(broker, self._take)
        self._tender: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] = lambda: None

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

        `run_id` must never have been used before.
        """
        self = cls(
            broker,
            names,
            settings,
            run_id=run_id,
            window_bytes=window_bytes,
            deadline_s=deadline_s,
        )
        state = state_of(await broker.ask(f"STREAM.INFO.{self._stream}", {}))
        self.last = await last_envelope(broker, self._stream)
        self._created = state.created
        self._base_seq = self.last.seq if self.last else state.last_seq
        self._base_id = self.last.message_id if self.last else None
        self._stored_seq = self._sent_seq = self._base_seq
        await self._inbox.open()
        self._unwatch = broker.watch(self._on_connection)
        self._flowing = True
        self._tender = asyncio.create_task(self._tend(), name=f"publisher {self._stream}")
        self._tender.add_done_callback(self._tended)
        return self

    async def publish(self, envelope: Envelope) -> None:
        """Send one envelope, waiting while the window is full. Returns before it is stored.

        Does not return while the stream is full and cannot grow. Raises the failure of this
        publisher, once there is one: BROKER_CHAIN, BROKER_WENT_BACK, BROKER_PAYLOAD,
        BROKER_UNREACHABLE (closed).
        """
        size = len(envelope.data)
        if size > self._broker.max_payload_bytes:
            raise too_large(size, self._broker)
        while self._window and self.in_flight_bytes + size > self._window_bytes:
            await self._wait_moved()
        self._raise_failure()
        if not self._window:
            self._progress_at = time.monotonic()
        seq = self._stored_seq + len(self._window) + 1
        self._window.append(_Sent(seq, envelope))
        self.in_flight_bytes += size
        if self._flowing and self._sent_seq == seq - 1:
            await self._send(self._window[-1])
            if self._broker.nc.pending_data_size > YIELD_BYTES:
                await asyncio.sleep(0)

    async def drain(self) -> None:
        """Return when everything published is stored. Raises what `publish` raises."""
        while self._window:
            await self._wait_moved()
        self._raise_failure()

    async def verify(self) -> None:
        """Compare the stream with what it has acknowledged; take note of what it stored in silence.

        Raises `PgfloError`: BROKER_WENT_BACK, BROKER_CHAIN. Runs by itself after every reconnect.
        """
        acknowledged = self._stored_seq
        state = await self._look()
        if state.last_seq < acknowledged:
            # A new leader may lag for a moment; a store that was put back will not catch up.
            await asyncio.sleep(SECOND_LOOK_S)
            state = await self._look()
        if state.last_seq < acknowledged:
            raise self._went_back(f"ends with {state.last_seq}, after acknowledging {acknowledged}")
        await self._check_end(state.last_seq, acknowledged)
        self._settle(state.last_seq)

    async def close(self) -> None:
        """Stop without waiting for what is in flight; `drain` first to lose nothing."""
        self._unwatch()
        if self._tender is not None:
            self._tender.cancel()
            await asyncio.wait([self._tender])
        await self._inbox.close()

    async def _send(self, sent: _Sent) -> None:
        try:
            await self._broker.nc.publish(
                self._subject,
                sent.envelope.data,
                reply=self._inbox.reply_subject(f"{self._round}.{sent.seq}"),
                headers={
                    MESSAGE_ID: self._id_of(sent.seq),
                    "Nats-Expected-Last-Sequence": str(sent.seq - 1),
                },
            )
        except nats.errors.Error:
            self._doubt()
        else:
            self._sent_seq = max(self._sent_seq, sent.seq)

    def _id_of(self, seq: int) -> str:
        return f"{self._id_prefix}{seq - self._base_seq}"

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
        """Everything up to `seq` is stored: each message was, only because its predecessor was."""
        now = time.monotonic()
        while self._window and self._window[0].seq <= seq:
            sent = self._window.popleft()
            self.in_flight_bytes -= len(sent.envelope.data)
            self._stored_seq = sent.seq
            self._progress_at = now
            self.full_since = None
            try:
                self.on_stored(sent.envelope, now)
            except Exception as error:  # noqa: BLE001 - raised again where it can stop somebody
                self._fail(error)
        self._sent_seq = max(self._sent_seq, self._stored_seq)
        self._moved.set()

    def _on_connection(self) -> None:
        self._doubt()

    def _doubt(self) -> None:
        self._flowing = False
        self._trouble.set()

    async def _tend(self) -> None:
        """Wait for trouble and put it right, for as long as this publisher lives."""
        pause_s = 0.0
        while True:
            await self._wait_trouble()
            stored_before = self._stored_seq
            await asyncio.sleep(pause_s)
            await self._recover()
            fruitless = self._stored_seq == stored_before and bool(self._window)
            pause_s = min(max(2 * pause_s, 0.05), LONGEST_PAUSE_S) if fruitless else 0.0

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
                    stream=self._stream,
                    silence_s=round(silence_s, 1),
                    in_flight_bytes=self.in_flight_bytes,
                )
                return
            try:
                async with asyncio.timeout(due_s):
                    await self._trouble.wait()
            except TimeoutError:
                continue

    async def _recover(self) -> None:
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
        self._sent_seq = self._stored_seq
        self._flowing = True
        while self._flowing and self._window and self._sent_seq < self._window[-1].seq:
            await self._send(self._window[max(0, self._sent_seq + 1 - self._window[0].seq)])
            if self._broker.nc.pending_data_size > YIELD_BYTES:
                await asyncio.sleep(0)

    async def _answer_refusal(self, refusal: Answer) -> None:
        log.debug("envelope refused", stream=self._stream, code=refusal.err_code, text=refusal.text)
        if refusal.err_code == TOO_LARGE:
            raise too_large(len(self._window[0].envelope.data), self._broker)
        if refusal.err_code == STREAM_FULL or refusal.err_code in OUT_OF_STORE:
            await self._wait_room(refusal)

    async def _wait_room(self, refusal: Answer) -> None:
        """Return when the stream was enlarged, or seems to have room for the next envelope."""
        while self._window and not self._trouble.is_set():
            state = await self._look()
            needed = len(self._window[0].envelope.data) + STORE_OVERHEAD_BYTES
            if state.bytes + needed <= state.max_bytes and self.full_since is not None:
                return
            if await self._grow(refusal):
                return
            if self.full_since is None:
                self.full_since = time.monotonic()
                log.warning(
                    "the change stream is full; reading from the source waits",
                    stream=self._stream,
                    max_bytes=state.max_bytes,
                    detail=self.full_detail,
                    setting="--stream-max-bytes",
                )
            await asyncio.sleep(FULL_LOOK_S)

    async def _grow(self, refusal: Answer) -> bool:
        self.full_detail = refusal.text
        if refusal.err_code != STREAM_FULL or "maximum bytes" not in refusal.text:
            return False
        try:
            return await grow(self._broker, self._stream, self._settings)
        except PgfloError as error:
            if error.kind is not BROKER_FULL:
                raise
            self.full_detail = error.detail
            return False

    async def _look(self) -> StreamState:
        try:
            info = await self._broker.ask(f"STREAM.INFO.{self._stream}", {}, patience_s=math.inf)
        except PgfloError as error:
            if is_missing(error):
                raise self._went_back("is gone") from None
            raise
        state = state_of(info)
        if state.created != self._created:
            raise self._went_back(f"was made anew at {state.created}")
        return state

    async def _check_end(self, seq: int, acknowledged: int) -> None:
        """See that the message at the stream's end is the one we know must be there."""
        message = await message_at(self._broker, self._stream, seq) if seq else None
        expected = self._id_of(seq) if seq > self._base_seq else self._base_id
        if message is None:
            # Purged by hand. Sequences still tell how far the chain got; readers see the gap.
            if seq > acknowledged and seq > self._sent_seq:
                raise self._broken(f"the stream ends with {seq}, which we did not send", seq)
        elif expected is not None and message.message_id != expected:
            if seq <= acknowledged:
                raise self._went_back(f"holds another message as {seq} than it acknowledged")
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

    def _went_back(self, what: str) -> PgfloError:
        return PgfloError(BROKER_WENT_BACK, f"stream {self._stream} {what}", stream=self._stream)

    def _broken(self, what: str, seq: int) -> PgfloError:
        return PgfloError(
            BROKER_CHAIN, f"stream {self._stream}: {what}", stream=self._stream, seq=seq
        )


def too_large(size: int, broker: Broker) -> PgfloError:
    """Make the error for an envelope that the server would not take."""
    return PgfloError(
        BROKER_PAYLOAD,
        f"an envelope of {size} bytes; {broker.where} takes {broker.max_payload_bytes}",
        bytes=size,
    )
