"""What the server hears: status messages, answers, and when it is better to leave.

Upstream: sinks and stream move the ledger. Downstream: the walsender session carries the messages.
Invariant: the flush position of every message comes from `Ledger.confirm`, and from nowhere else.

A server that shuts down asks its walsender's client for an answer again after every answer, at the
same LSN, until that LSN is confirmed or the client is gone; `pg_ctl stop` waits for it without end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgflo import _core
    from pgflo.replicator.ledger import Ledger
    from pgflo.replicator.sinks import Sinks
    from pgflo.source.walsender import WalSender

SHUTDOWN_REQUESTS = 3
"""A running server asks once and waits; one that shuts down asks again after every answer."""

SHUTDOWN_WINDOW_S = 2.0
"""Seconds within which that many requests must come."""


class Confirmation:
    """The talking half of a session: one walsender, until it ends."""

    def __init__(
        self, ledger: Ledger, sinks: Sinks, walsender: WalSender, interval_s: float
    ) -> None:
        self._ledger = ledger
        self._sinks = sinks
        self._walsender = walsender
        self._interval_s = interval_s
        self._told_at = 0.0
        self._requests: list[float] = []
        self.stop_lsn = 0
        """LSN at which a server that shuts down asks."""

    def update(self, *, ask: bool = False) -> None:
        """Look at the sinks; send a status if it confirms more, is due, or is to `ask`."""
        self._ledger.commit_by_sinks(self._sinks.end_lsn)
        before_lsn = self._ledger.confirmed_lsn
        is_due = time.monotonic() - self._told_at >= self._interval_s
        if self._ledger.confirm() != before_lsn or is_due or ask:
            self._tell(ask=ask)

    def say_last(self) -> None:
        """Send what is safe by now, before the session ends."""
        self._ledger.commit_by_sinks(self._sinks.end_lsn)
        self._tell()

    def answer(self, assembler: _core.Assembler) -> bool:
        """Answer a keepalive that asks for it; True when the server wants to shut down."""
        if not assembler.take_reply_request():
            return False
        self._tell()
        now = time.monotonic()
        if assembler.keepalive_lsn != self.stop_lsn:
            self.stop_lsn = assembler.keepalive_lsn
            self._requests.clear()
        self._requests = [at for at in self._requests if now - at < SHUTDOWN_WINDOW_S] + [now]
        return len(self._requests) >= SHUTDOWN_REQUESTS

    def _tell(self, *, ask: bool = False) -> None:
        self._told_at = time.monotonic()
        self._walsender.send_status(
            received_lsn=self._ledger.received_lsn,
            confirmed_lsn=self._ledger.confirm(),
            ask=ask,
        )
