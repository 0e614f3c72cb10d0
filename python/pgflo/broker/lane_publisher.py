"""The publisher of one copy lane: envelopes in order on a subject of their own, without a chain.

Upstream: a copy process. Downstream: JetStream; the ranges' ledger proves that a range is complete.
Invariant: what `drain` has returned for is stored, in the order it was published. Lanes share a
stream, so a message cannot name its predecessor: after a lost answer nobody knows what is stored,
and the caller publishes the range again as a new attempt (`LaneBroken`). A full stream is no such
loss: a lane looks for room ahead, and what is refused all the same is sent again, in order.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from pgflo.broker.acknowledgement import TOO_LARGE, Answer, Inbox
from pgflo.broker.publisher import DEADLINE_S, WINDOW_BYTES, YIELD_BYTES, too_large
from pgflo.broker.room import LOOK_S, STORE_OVERHEAD_BYTES, Room, is_full
from pgflo.broker.steady import SteadyStream
from pgflo.broker.stored import message_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.config.settings import NatsSettings

log = structlog.get_logger("pgflo.broker")

LANES = 32
"""So many lanes may look at the same room at once: each takes its share of the reserve before it
looks again, so a refusal, after which a purge might let a later envelope in first, is rare."""

RESERVED_PART = 4
"""The reserve is a window for each lane, but at most this part of the stream."""


class LaneBroken(Exception):  # noqa: N818 - the caller expects it: not a mistake
    """An answer was lost: publish the range again, as a new attempt, on the same publisher."""


@dataclass(slots=True)
class _Sent:
    data: bytes
    subject: str
    refused: bool = False


class LanePublisher:
    """Publishes the copy envelopes of one process. `open` makes it; one task uses it."""

    def __init__(
        self,
        broker: Broker,
        names: Names,
        settings: NatsSettings,
        *,
        window_bytes: int,
        deadline_s: float,
    ) -> None:
        self.in_flight_bytes = 0
        self._broker = broker
        self._stream = SteadyStream(broker, names.copy_stream)
        self._room = Room(broker, names.copy_stream, settings, "copying waits for the sinks")
        self._window_bytes = window_bytes
        self._deadline_s = deadline_s
        self._stored_seq = 0
        self._stored: _Sent | None = None
        self._must_verify = False
        self._room_bytes = 0
        self._first_number = 0
        """Tag of the oldest in flight; the others follow."""
        self._window: deque[_Sent] = deque()
        self._queue: deque[_Sent] = deque()
        self._progress_at = 0.0
        self._broken = ""
        self._too_large = False
        self._moved = asyncio.Event()
        self._inbox = Inbox(broker, self._take)
        self._unwatch: Callable[[], None] = lambda: None

    @classmethod
    async def open(
        cls,
        broker: Broker,
        names: Names,
        settings: NatsSettings,
        *,
        window_bytes: int = WINDOW_BYTES,
        deadline_s: float = DEADLINE_S,
    ) -> LanePublisher:
        """Begin to publish into the copy stream, which must be there."""
        self = cls(broker, names, settings, window_bytes=window_bytes, deadline_s=deadline_s)
        await self._stream.open()
        await self._inbox.open()
        self._unwatch = broker.watch(self._on_connection)
        return self

    @property
    def stored_seq(self) -> int:
        """Sequence of the last envelope that is known to be stored; 0 before there is one."""
        return self._stored_seq

    @property
    def full_since(self) -> float | None:
        """Monotonic time since which the stream is full and cannot grow; None while it can."""
        return self._room.full_since

    async def publish(self, data: bytes, subject: str) -> None:
        """Send one envelope, waiting while the window or the stream is full.

        Returns before it is stored.

        Raises `LaneBroken`, and `PgfloError`: BROKER_WENT_BACK, BROKER_PAYLOAD, BROKER_UNREACHABLE
        (closed).
        """
        size = len(data)
        if size > self._broker.max_payload_bytes:
            raise too_large(size, self._broker)
        self._queue.append(_Sent(data, subject))
        await self._work(lambda: not self._queue)
        if self._broker.nc.pending_data_size > YIELD_BYTES:
            await asyncio.sleep(0)

    async def drain(self) -> None:
        """Return when everything published is stored. Raises what `publish` raises."""
        await self._work(lambda: not self._queue and not self._window)

    async def verify(self) -> None:
        """Raise `PgfloError` (BROKER_WENT_BACK) when the stream lost what it has acknowledged."""
        acknowledged, stored = self._stored_seq, self._stored
        state = await self._stream.look()
        if state.last_seq < acknowledged:
            raise self._stream.went_back(
                f"ends with {state.last_seq}, after acknowledging {acknowledged}"
            )
        if stored is None:
            return
        message = await message_at(self._broker, self._stream.name, acknowledged)
        if message is not None and (message.subject, message.data) != (stored.subject, stored.data):
            raise self._stream.went_back(
                f"holds another message as {acknowledged} than it acknowledged"
            )

    async def _verify_once(self) -> None:
        self._must_verify = False
        await self.verify()

    async def close(self) -> None:
        """Stop without waiting for what is in flight."""
        self._unwatch()
        await self._inbox.close()

    async def _work(self, done: Callable[[], bool]) -> None:
        """Send what is queued as window and stream allow, until `done`."""
        while True:
            await self._raise_broken()
            if self._window and all(sent.refused for sent in self._window):
                self._take_back()
            if done():
                return
            if self._queue and self._may_send(len(self._queue[0].data)):
                needed = len(self._queue[0].data) + STORE_OVERHEAD_BYTES
                if self._room_bytes < needed:
                    await self._find_room(needed)
                else:
                    self._room_bytes -= needed
                    await self._send(self._queue.popleft())
            else:
                await self._wait_moved()

    def _may_send(self, size: int) -> bool:
        if not self._window:
            return True
        # Behind a refused one, nothing: it would be stored out of order.
        return (
            self.in_flight_bytes + size <= self._window_bytes
            and not self._window[0].refused
            and not self._window[-1].refused
        )

    def _take_back(self) -> None:
        """Queue again what was refused: all that is in flight, so nothing is out of order."""
        self._first_number += len(self._window)
        self._queue.extendleft(reversed(self._window))
        self._window.clear()
        self.in_flight_bytes = self._room_bytes = 0

    async def _send(self, sent: _Sent) -> None:
        sent.refused = False
        if not self._window:
            self._progress_at = time.monotonic()
        number = self._first_number + len(self._window)
        self._window.append(sent)
        self.in_flight_bytes += len(sent.data)
        reply = self._inbox.reply_subject(str(number))
        if not await self._broker.send(sent.subject, sent.data, reply=reply):
            self._break("the connection was lost")

    def _take(self, tag: str, answer: Answer) -> None:
        place = int(tag) - self._first_number
        if not 0 <= place < len(self._window):
            return  # of an attempt that was given up
        self._progress_at = time.monotonic()
        sent = self._window[place]
        if answer.err_code == 0:
            self._take_stored(sent, answer)
        elif answer.err_code == TOO_LARGE:
            self._too_large = True
        elif is_full(answer):
            sent.refused = True
        else:
            self._break(f"{answer.text} ({answer.err_code})")
        self._moved.set()

    def _take_stored(self, sent: _Sent, answer: Answer) -> None:
        if sent is not self._window[0]:
            self._break("an envelope was stored after one that was not")
            return
        self._stored, self._stored_seq = sent, answer.seq
        self._window.popleft()
        self._first_number += 1
        self.in_flight_bytes -= len(sent.data)
        self._room.tell_taken()

    async def _wait_moved(self) -> None:
        self._moved.clear()
        due_at = self._progress_at + self._deadline_s
        try:
            async with asyncio.timeout(max(0.0, due_at - time.monotonic())):
                await self._moved.wait()
        except TimeoutError:
            # A slow network is no loss: what we ask now is answered behind all that was sent.
            await self._stream.look()
            if self._window and self._progress_at + self._deadline_s == due_at:
                self._break(f"no acknowledgement within {self._deadline_s:g} s")

    async def _find_room(self, needed_bytes: int) -> None:
        """Wait for room for `needed_bytes` and for what other lanes may be sending."""
        while True:
            state = await self._stream.look()
            reserve = min(LANES * self._window_bytes, state.max_bytes // RESERVED_PART)
            free = state.max_bytes - state.bytes - self.in_flight_bytes
            if free >= reserve + needed_bytes or (state.messages == 0 and free >= needed_bytes):
                self._room_bytes = max(needed_bytes, reserve // LANES)
                return
            if not await self._room.grow():
                self._room.tell_full(state, needed_bytes)
                await asyncio.sleep(LOOK_S)

    def _on_connection(self) -> None:
        self._must_verify = True
        if self._window:
            self._break("the connection was lost")

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._moved.set()

    async def _raise_broken(self) -> None:
        """Forget what is in flight, and say so."""
        if self._too_large:
            raise too_large(max(len(sent.data) for sent in self._window), self._broker)
        if not self._broken:
            if self._must_verify:
                await self._verify_once()
            return
        why, self._broken = self._broken, ""
        self._first_number += len(self._window)
        self._window.clear()
        self._queue.clear()
        self.in_flight_bytes = self._room_bytes = 0
        await self._verify_once()
        log.warning("the range is published again", stream=self._stream.name, why=why)
        raise LaneBroken(why)
