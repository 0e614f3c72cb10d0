"""When to try again: growing, jittered waits, and never before the first success.

Upstream: failures of source and broker. Downstream: the replicator's loops.
Invariant: a start that fails ends at once with its error; so does whatever time cannot heal.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pgflo.config.settings import RetrySettings
    from pgflo.errors import PgfloError

log = structlog.get_logger("pgflo.replicator")


class Waits:
    """Counts attempts in a row."""

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._attempts = 0
        self._has_started = False

    def started(self) -> None:
        """Note that it worked once: from now on time may heal."""
        self._has_started = True

    def calm(self) -> None:
        """Note a long time without trouble."""
        self._attempts = 0

    async def wait(self, error: PgfloError, stop: asyncio.Event) -> None:
        """Wait before the next attempt, or until `stop`; raise what waiting cannot heal."""
        self._attempts += 1
        limit = self._settings.max_attempts
        if not error.can_heal or not self._has_started or (limit and self._attempts > limit):
            raise error
        longest_s = min(
            self._settings.max_wait_s,
            self._settings.initial_wait_s * 2 ** min(self._attempts - 1, 20),
        )
        wait_s = random.uniform(longest_s / 2, longest_s)  # noqa: S311 - jitter, not a secret
        log.warning(
            "trying again",
            cause=error.detail,
            kind=error.kind.code,
            wait_s=round(wait_s, 1),
            attempt=self._attempts,
        )
        try:
            async with asyncio.timeout(wait_s):
                await stop.wait()
        except TimeoutError:
            return
