"""One connection's life: walsender → assembler → change stream, and the confirmations back.

Upstream: `source.walsender`. Downstream: `broker.publisher`; the ledger decides what is confirmed.
Invariant: envelopes are published in the order the assembler made them, and whatever was read but
not published is read again by the next connection.

Two tasks share the session. The intake reads, assembles and publishes; it stops reading while the
broker takes no more (back-pressure), and cuts an envelope when the source has nothing more at the
moment. The talk sends status messages, also while the intake waits, which is all the server needs
to stay. When the server wants to shut down, what is in flight is finished and the session left.
"""

from __future__ import annotations

import asyncio
import enum
import time
import uuid
from typing import TYPE_CHECKING

import structlog

from pgflo import _core, errors
from pgflo._core import CoreError, lsn_format
from pgflo.broker.publisher import ChangePublisher
from pgflo.broker.topology import create_streams
from pgflo.errors import PgfloError
from pgflo.replicator.confirmation import Confirmation
from pgflo.replicator.pace import Pace
from pgflo.replicator.start import connect_source, starting_point
from pgflo.supervisor.race import first_of

if TYPE_CHECKING:
    from pgflo._core import Envelope
    from pgflo.broker.connection import Broker
    from pgflo.config.settings import ReplicateSettings
    from pgflo.replicator.group import Group
    from pgflo.replicator.ledger import Ledger
    from pgflo.replicator.sinks import Sinks
    from pgflo.replicator.start import Connected, StartPoint

log = structlog.get_logger("pgflo.replicator")

BLOCK_BYTES = 1024 * 1024
"""Read at most this much before the event loop gets its turn: about 10 ms of work."""

TARGET_BODY_BYTES = 256 * 1024
"""Body size at which an envelope is cut when changes keep coming."""

MAX_BODY_BYTES = 896 * 1024
"""Largest body: with the headers it stays below the server's default max_payload of 1 MiB."""

CUT_AGE_S = 0.010
"""A commit waits no longer than this for company, however busy the source is."""

TALK_INTERVAL_S = 1.0
"""Longest time between two looks at what may be confirmed; a status goes out if that is more, or if
it is due."""

FINISH_IN_FLIGHT_S = 10.0
"""Seconds to finish what is in flight when asked to stop."""

FINISH_FOR_SERVER_S = 3.0
"""The same when the source wants to shut down."""

STALL_S = 20.0
"""After this long without a single acknowledgement the walsender is let go, so that it does not
keep the source from shutting down; reading goes on from the slot when the broker takes envelopes
again."""


class Ending(enum.Enum):
    """Why a session ended without an error."""

    STOPPED = "stopped"
    """We were asked to stop. Everything read up to a commit is published, if the broker let us."""
    REACHED = "reached"
    """The LSN of `--until` or `--once` is reached and everything up to it is published."""
    SERVER_STOPS = "server stops"
    """The source shuts down."""
    STALLED = "stalled"
    """The broker takes nothing more."""


class Session:
    """A walsender session and the publisher it feeds. `open`, then `run` once."""

    def __init__(
        self,
        ledger: Ledger,
        sinks: Sinks,
        connected: Connected,
        publisher: ChangePublisher,
        assembler: _core.Assembler,
    ) -> None:
        self._ledger = ledger
        self._walsender = connected.walsender
        self._publisher = publisher
        self._assembler = assembler
        self._confirmation = Confirmation(ledger, sinks, self._walsender, connected.timeout_s)
        self.target_lsn = connected.target_lsn
        self._wake = asyncio.Event()
        self._leaving = False
        self._pace = Pace()
        self._cut_at = 0.0
        self._pending_since: float | None = None
        self._stored_at = time.monotonic()
        publisher.on_stored = self._on_stored

    @classmethod
    async def open(
        cls,
        group: Group,
        broker: Broker,
        settings: ReplicateSettings,
        ledger: Ledger,
        sinks: Sinks,
        target_lsn: int | None,
    ) -> Session:
        """Find where the change stream ends, check the source, start there. Raises `PgfloError`.

        A change stream that is gone is made again, empty: if the slot still has what it held, it is
        fed again, and otherwise `check_source` refuses.
        """
        await create_streams(broker, group.names, settings.nats, copy=False)
        await sinks.look()
        publisher = await ChangePublisher.open(
            broker, group.names, settings.nats, run_id=uuid.uuid4().hex
        )
        try:
            start = await starting_point(broker, group, publisher.last)
            connected = await connect_source(group, settings, ledger, sinks, start, target_lsn)
        except BaseException:
            await publisher.close()
            raise
        return cls(ledger, sinks, connected, publisher, _assembler(group, broker, connected.start))

    async def run(self, stop: asyncio.Event) -> Ending:
        """Stream until the end. Raises `PgfloError` when source or broker fail.

        When it returns or raises, the slot is free.
        """
        ending = None
        try:
            ending = await first_of(
                self._intake(), self._talk(), self._leave(stop), self._publisher.failed.wait()
            )
            if not isinstance(ending, Ending):
                await self._publisher.drain()
                raise TypeError("a publisher that failed has an error to raise")
            return ending
        finally:
            await self._part(polite=ending is not None)

    async def _intake(self) -> Ending:
        while not self._leaving:
            block, more = self._walsender.drain(BLOCK_BYTES)
            if block:
                await self._take(block)
                if self._confirmation.answer(self._assembler):
                    await self._let_server_stop()
                    return Ending.SERVER_STOPS
                if self.target_lsn is not None and self._ledger.published_lsn >= self.target_lsn:
                    await self._finish_in_flight()
                    return Ending.REACHED
            if not more and await self._idle():
                return Ending.REACHED
        await self._finish_in_flight()
        return Ending.STOPPED

    async def _take(self, block: bytes) -> None:
        """Assemble and publish one block."""
        assembler = self._assembler
        self._pace.took(len(block))
        try:
            envelopes = assembler.feed(block)
        except CoreError as error:
            raise PgfloError(
                errors.SOURCE_MALFORMED,
                f"after {lsn_format(assembler.end_lsn)} the source sent what cannot be: {error}",
            ) from error
        self._ledger.receive(max(assembler.received_lsn, assembler.end_lsn))
        if envelopes:
            self._pending_since = None
        for envelope in envelopes:
            await self._publish(envelope)
        now = time.monotonic()
        if not assembler.pending_bytes:
            self._pending_since = None
        elif self._pending_since is None:
            self._pending_since = now
        elif now - self._pending_since >= CUT_AGE_S:
            await self._cut()
        # The acknowledgements' turn.
        await asyncio.sleep(0)

    async def _idle(self) -> bool:
        """Do what is due when nothing more is there to read, and wait; True when all is reached."""
        if self._assembler.pending_bytes:
            wait_s = self._pace.wait_s(time.monotonic(), self._cut_at)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                return False
            if self._assembler.pending_at_commit:
                await self._cut()
        elif await self._mark():
            return True
        self._walsender.watch(self._wake)
        await self._wake.wait()
        self._wake.clear()
        return False

    async def _mark(self) -> bool:
        """Publish a watermark when one is due; True when the target is reached and stored."""
        assembler, ledger = self._assembler, self._ledger
        if assembler.pending_bytes or assembler.in_transaction or self._publisher.in_flight_bytes:
            return False
        idle_lsn = max(assembler.keepalive_lsn, assembler.end_lsn)
        target_lsn = self.target_lsn
        reached = target_lsn is not None and idle_lsn >= target_lsn
        if reached and ledger.published_lsn >= (target_lsn or 0):
            return True
        if ledger.wants_watermark(idle_lsn) or (reached and idle_lsn > ledger.published_lsn):
            await self._publish(assembler.watermark(idle_lsn))
            ledger.watermark_made()
        return False

    async def _cut(self) -> None:
        for envelope in self._assembler.flush():
            await self._publish(envelope)
        self._pending_since = None

    async def _publish(self, envelope: Envelope) -> None:
        self._cut_at = time.monotonic()
        if not self._publisher.in_flight_bytes:
            self._stored_at = self._cut_at
        await self._publisher.publish(envelope)

    def _on_stored(self, envelope: Envelope, stored_at: float) -> None:
        self._stored_at = stored_at
        if envelope.part + 1 == envelope.parts:
            self._ledger.publish(envelope.end_lsn)
        if self.target_lsn is not None:
            self._wake.set()

    async def _let_server_stop(self) -> None:
        assembler, lsn = self._assembler, self._confirmation.stop_lsn
        log.warning("the source shuts down; leaving", lsn=lsn_format(lsn))
        try:
            async with asyncio.timeout(FINISH_FOR_SERVER_S):
                await self._cut()
                idle = not (assembler.pending_bytes or assembler.in_transaction)
                if idle and lsn > self._ledger.published_lsn and lsn >= assembler.end_lsn:
                    await self._publish(assembler.watermark(lsn))
                await self._publisher.drain()
        except TimeoutError:
            log.warning("the broker did not take everything in time; it is read again later")

    async def _finish_in_flight(self) -> None:
        await self._cut()
        await self._publisher.drain()

    async def _leave(self, stop: asyncio.Event) -> Ending:
        """Ask the intake to end when `stop` is set; give up on it when the broker lets it hang."""
        await stop.wait()
        self._leaving = True
        self._wake.set()
        await asyncio.sleep(FINISH_IN_FLIGHT_S)
        log.warning("the broker did not take everything in time; it is read again later")
        return Ending.STOPPED

    async def _talk(self) -> Ending:
        """Send status messages; give `STALLED` when the broker has taken nothing for too long."""
        while True:
            target_lsn = self.target_lsn
            ask = target_lsn is not None and self._ledger.received_lsn < target_lsn
            self._confirmation.update(ask=ask)
            self._wake.set()
            if self._publisher.in_flight_bytes and self._stored_at + STALL_S < time.monotonic():
                log.warning("the broker takes nothing; letting the source go until it does")
                return Ending.STALLED
            # Until the status is due, and no longer: what was told since the last one moves that.
            await asyncio.sleep(min(TALK_INTERVAL_S, self._confirmation.due_in_s))

    async def _part(self, *, polite: bool) -> None:
        """Say what is safe for the last time, free the slot, close the publisher."""
        if polite:
            try:
                self._confirmation.say_last()
            except PgfloError as error:
                log.debug("no last status", cause=error.detail)
        try:
            await self._walsender.finish()
        finally:
            await self._publisher.close()


def _assembler(group: Group, broker: Broker, start: StartPoint) -> _core.Assembler:
    max_body_bytes = min(MAX_BODY_BYTES, broker.max_payload_bytes - _core.HEADER_BYTES)
    return _core.Assembler(
        group.names.incarnation.bytes,
        start.position,
        start.end_lsn,
        target_body_bytes=min(TARGET_BODY_BYTES, max_body_bytes),
        max_body_bytes=max_body_bytes,
        layout=group.value.layout,
    )
