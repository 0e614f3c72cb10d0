"""Room in a stream: growing it, and knowing since when it is full.

Upstream: publishers that were refused, or look ahead. Downstream: `topology` raises the limit.
Invariant: a full stream is reported once per time it is full; nothing is ever dropped to make room.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from pgflo.broker.acknowledgement import STREAM_FULL, Answer
from pgflo.broker.topology import OUT_OF_STORE, grow
from pgflo.errors import BROKER_FULL, PgfloError

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.broker.stored import StreamState
    from pgflo.config.settings import NatsSettings

log = structlog.get_logger("pgflo.broker")

STORE_OVERHEAD_BYTES = 1024
"""What a message takes in the store beside its data, generously: subject, headers, record."""

LOOK_S = 0.2
"""Pause between two looks at a full stream."""


def is_full(answer: Answer) -> bool:
    """Whether a refusal is for want of room."""
    return answer.err_code == STREAM_FULL or answer.err_code in OUT_OF_STORE


class Room:
    """The room of one stream, as one publisher sees it."""

    def __init__(
        self, broker: Broker, stream: str, settings: NatsSettings, consequence: str
    ) -> None:
        self.full_since: float | None = None
        """Monotonic time since which nothing fits and the stream cannot grow; None otherwise."""
        self.detail = ""
        """Why it cannot grow."""
        self._broker = broker
        self._stream = stream
        self._settings = settings
        self._consequence = consequence

    async def grow(self) -> bool:
        """Raise the stream's limit, if setting and server allow it."""
        self.detail = f"--stream-max-bytes is {self._settings.stream_max_bytes}"
        try:
            return await grow(self._broker, self._stream, self._settings)
        except PgfloError as error:
            if error.kind is not BROKER_FULL:
                raise
            self.detail = error.detail
            return False

    def tell_full(self, state: StreamState, needed_bytes: int) -> None:
        """Note that the stream is full and stays as large as it is.

        Raises `PgfloError` (BROKER_FULL) when an empty stream has no room for one envelope.
        """
        if needed_bytes > state.max_bytes:
            raise PgfloError(
                BROKER_FULL,
                f"an envelope of {needed_bytes} bytes does not fit into {self._stream}, whose "
                f"limit is {state.max_bytes}: {self.detail}",
                hint="Raise --stream-max-bytes.",
                stream=self._stream,
            )
        if self.full_since is None:
            self.full_since = time.monotonic()
            log.warning(
                "the stream is full and stays as large as it is",
                stream=self._stream,
                consequence=self._consequence,
                max_bytes=state.max_bytes,
                cause=self.detail,
            )

    def tell_taken(self) -> None:
        """Note that the stream took an envelope."""
        if self.full_since is not None:
            waited_s = round(time.monotonic() - self.full_since, 1)
            log.info("the stream takes envelopes again", stream=self._stream, waited_s=waited_s)
        self.full_since = None
