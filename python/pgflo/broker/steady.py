"""A stream that must stay the one it was: what is checked after every interruption.

Upstream: JetStream. Downstream: `publisher`, `lane_publisher`, `consumer`.
Invariant: a stream that was removed, or made anew under its old name, is never taken for the one
that was opened.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pgflo.broker.stored import StreamState, is_missing, state_of
from pgflo.errors import BROKER_WENT_BACK, PgfloError

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker

FIRST_PATIENCE_S = 30.0


class SteadyStream:
    """One stream, from the moment it was opened."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.name = name
        self._broker = broker
        self._created = ""

    async def open(self) -> StreamState:
        """Look for the first time. `PgfloError` (BROKER_REFUSED) when the stream is not there."""
        info = await self._broker.ask(f"STREAM.INFO.{self.name}", {}, patience_s=FIRST_PATIENCE_S)
        state = state_of(info)
        self._created = state.created
        return state

    async def look(self) -> StreamState:
        """Look again, however long the broker is away. `PgfloError` (BROKER_WENT_BACK)."""
        try:
            info = await self._broker.ask(f"STREAM.INFO.{self.name}", {}, patience_s=math.inf)
        except PgfloError as error:
            if is_missing(error):
                raise self.went_back("is gone") from None
            raise
        state = state_of(info)
        if state.created != self._created:
            raise self.went_back(f"was made anew at {state.created}")
        return state

    def went_back(self, what: str) -> PgfloError:
        """Make the error that says the stream lost what it had."""
        return PgfloError(BROKER_WENT_BACK, f"stream {self.name} {what}", stream=self.name)
