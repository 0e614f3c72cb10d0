"""What the server hears: status messages, answers, and when it is better to leave.

Upstream: sinks and stream move the ledger. Downstream: the walsender session carries the messages.
Invariant: the flush position of every message comes from `Ledger.confirm`, and from nowhere else.

A server that lives asks for an answer when it has heard nothing for half of `wal_sender_timeout`,
and again no sooner than that after it has heard one. A server that shuts down asks again after
every answer, at the same LSN, until that LSN is confirmed or the client is gone; `pg_ctl stop`
waits for it without end. The time between two requests tells one from the other, and is taken by
the server's own clock: requests that lay unread behind other data are read all at once.

Example, for 1 s: requests sent at 0.0, 0.6 and 1.2 s come from a server that lives and a client
that is late; at 0.000, 0.002 and 0.004 s from one that shuts down.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgflo import _core
    from pgflo.replicator.ledger import Ledger
    from pgflo.replicator.sinks import Sinks
    from pgflo.source.walsender import WalSender

STATUS_INTERVAL_S = 10.0
"""Longest time between two status messages."""

STATUSES_PER_TIMEOUT = 3
"""So often, at least, a status goes out within `wal_sender_timeout`: before the server asks."""

SHUTDOWN_REQUESTS = 3
"""Requests in a row, each soon after the one before it, that tell a shutdown. Two could come from a
server that lives and whose clock was set back."""

SOON_S = 1.0
"""A request within this time after another one is soon: an answer takes no longer to the server."""

SOON_PER_TIMEOUT = 0.4
"""The same as a part of `wal_sender_timeout`: less than the half that a server that lives waits,
more than what lies between two status messages."""


class Confirmation:
    """The talking half of a session: one walsender, until it ends."""

    def __init__(
        self, ledger: Ledger, sinks: Sinks, walsender: WalSender, timeout_s: float
    ) -> None:
        """`timeout_s` is how long the server bears silence; 0: for ever, and it never asks."""
        self._ledger = ledger
        self._sinks = sinks
        self._walsender = walsender
        self._interval_s = STATUS_INTERVAL_S
        soon_s = SOON_S
        if timeout_s:
            self._interval_s = min(STATUS_INTERVAL_S, timeout_s / STATUSES_PER_TIMEOUT)
            soon_s = min(SOON_S, timeout_s * SOON_PER_TIMEOUT)
        self._soon_us = soon_s * 1_000_000
        self._due_at = 0.0
        self._requests = 0
        self._requested_at_us = 0
        self.stop_lsn = 0
        """LSN at which a server that shuts down asks."""

    @property
    def due_in_s(self) -> float:
        """Seconds until the next status is due if nothing is told before; not above 0: now."""
        return self._due_at - time.monotonic()

    def update(self, *, ask: bool = False) -> None:
        """Look at the sinks; send a status if it confirms more, is due, or is to `ask`."""
        self._ledger.commit_by_sinks(self._sinks.end_lsn)
        before_lsn = self._ledger.confirmed_lsn
        if self._ledger.confirm() != before_lsn or self.due_in_s <= 0 or ask:
            self._tell(ask=ask)

    def say_last(self) -> None:
        """Send what is safe by now, before the session ends."""
        self._ledger.commit_by_sinks(self._sinks.end_lsn)
        self._tell()

    def answer(self, assembler: _core.Assembler) -> bool:
        """Answer a keepalive that asks for it; True when the server wants to shut down."""
        requested_at_us = assembler.take_reply_request()
        if requested_at_us is None:
            return False
        self._tell()
        is_again = (
            assembler.keepalive_lsn == self.stop_lsn
            and requested_at_us - self._requested_at_us < self._soon_us
        )
        self._requests = self._requests + 1 if is_again else 1
        self._requested_at_us = requested_at_us
        self.stop_lsn = assembler.keepalive_lsn
        return self._requests >= SHUTDOWN_REQUESTS

    def _tell(self, *, ask: bool = False) -> None:
        self._due_at = time.monotonic() + self._interval_s
        self._walsender.send_status(
            received_lsn=self._ledger.received_lsn,
            confirmed_lsn=self._ledger.confirm(),
            ask=ask,
        )
