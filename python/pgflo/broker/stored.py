"""What is stored in a stream: single envelopes, and where a position stands.

Upstream: `publisher` fills the streams. Downstream: publishers (where does the chain end), workers
(from where to read), `topology`, `status`.
Invariant: envelopes are read from the stream's leader, so an envelope that was acknowledged is
found.
"""

from __future__ import annotations

import base64
import calendar
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgflo._core import EnvelopeError, Header, read_header
from pgflo.errors import BROKER_CHAIN, BROKER_REFUSED, PgfloError

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker

MESSAGE_ID = "Nats-Msg-Id"

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
CONSUMER_EXISTS = 10148
CONSUMER_UNMADE = 10012


@dataclass(frozen=True)
class StreamState:
    """A stream at one moment. An empty one has first_seq = last_seq + 1."""

    created: str
    first_seq: int
    last_seq: int
    bytes: int
    messages: int
    max_bytes: int


@dataclass(frozen=True)
class StoredMessage:
    """One message as the broker holds it."""

    seq: int
    subject: str
    message_id: str
    """Its Nats-Msg-Id, or ""."""
    time: str
    """When it was stored, as the server prints it."""
    data: bytes

    @property
    def stored_ns(self) -> int:
        """When it was stored, ns since 1970."""
        return nanoseconds(self.time)


@dataclass(frozen=True)
class StoredEnvelope:
    """One envelope in a stream, without its body."""

    seq: int
    header: Header
    message_id: str
    time: str


async def stream_state(broker: Broker, stream: str) -> StreamState:
    """Look at a stream.

    Raises `PgfloError` (BROKER_REFUSED, `err_code` 10059) when it is not there.
    """
    return state_of(await broker.ask(f"STREAM.INFO.{stream}", {}))


def state_of(info: dict[str, Any]) -> StreamState:
    """Read the answer of STREAM.INFO."""
    state = info["state"]
    return StreamState(
        created=info["created"],
        first_seq=int(state["first_seq"]) or 1,  # 0 in a stream that never held anything
        last_seq=int(state["last_seq"]),
        bytes=int(state["bytes"]),
        messages=int(state["messages"]),
        max_bytes=int(info["config"]["max_bytes"]),
    )


def is_missing(error: PgfloError) -> bool:
    """Whether an API error says that the stream, consumer or message is not there."""
    return error.kind is BROKER_REFUSED and error.context.get("err_code") in (
        STREAM_NOT_FOUND,
        CONSUMER_NOT_FOUND,
        MESSAGE_NOT_FOUND,
    )


def is_unmade(error: PgfloError) -> bool:
    """Whether a consumer could not be made: the disk refuses, or one of its name is just going."""
    return error.kind is BROKER_REFUSED and error.context.get("err_code") == CONSUMER_UNMADE


def is_taken(error: PgfloError) -> bool:
    """Whether an API error says that there is another consumer of that name."""
    return error.kind is BROKER_REFUSED and error.context.get("err_code") == CONSUMER_EXISTS


async def message_at(broker: Broker, stream: str, seq: int) -> StoredMessage | None:
    """Fetch one message; None when the stream does not hold it.

    Costs a transfer of the whole message.
    """
    try:
        told = await broker.ask(f"STREAM.MSG.GET.{stream}", {"seq": seq})
    except PgfloError as error:
        if is_missing(error):
            return None
        raise
    message = told["message"]
    headers = base64.b64decode(message.get("hdrs", "")).decode("utf-8", "replace")
    ids = [
        line.partition(":")[2].strip()
        for line in headers.split("\r\n")
        if line.lower().startswith(f"{MESSAGE_ID.lower()}:")
    ]
    return StoredMessage(
        seq=int(message["seq"]),
        subject=message["subject"],
        message_id=ids[0] if ids else "",
        time=message["time"],
        data=base64.b64decode(message.get("data", "")),
    )


async def last_envelope(broker: Broker, stream: str) -> StoredEnvelope | None:
    """Read the envelope that the stream ends with; None when it holds none."""
    state = await stream_state(broker, stream)
    if state.messages == 0:
        return None
    return await envelope_at(broker, stream, state.last_seq)


async def envelope_at(broker: Broker, stream: str, seq: int) -> StoredEnvelope | None:
    """Read one envelope's header; None when the stream does not hold it.

    Raises `PgfloError` (BROKER_CHAIN) for a message that is no envelope.
    """
    message = await message_at(broker, stream, seq)
    if message is None:
        return None
    try:
        header = read_header(message.data)
    except EnvelopeError as error:
        raise PgfloError(
            BROKER_CHAIN,
            f"message {seq} of {stream} is no envelope: {error}",
            stream=stream,
            seq=seq,
        ) from None
    return StoredEnvelope(message.seq, header, message.message_id, message.time)


async def locate(broker: Broker, stream: str, position: tuple[int, int]) -> int:
    """Find the sequence of the first envelope that ends behind `position`, or the last one + 1.

    Binary search: one envelope is fetched per step. What is purged meanwhile counts as before
    `position`; whether the envelope found joins `position` without a gap is for the reader to check
    in its header.
    """
    state = await stream_state(broker, stream)
    low, behind = state.first_seq, state.last_seq + 1
    while low < behind:
        middle = (low + behind) // 2
        found = await envelope_at(broker, stream, middle)
        if found is not None and (found.header.commit_lsn, found.header.ordinal) > position:
            behind = middle
        elif found is not None or middle < (await stream_state(broker, stream)).first_seq:
            low = middle + 1
        else:
            raise PgfloError(
                BROKER_CHAIN,
                f"message {middle} is missing inside {stream}",
                stream=stream,
                seq=middle,
            )
    return low


def nanoseconds(time_text: str) -> int:
    """Read a time as the server prints it (RFC 3339 with up to 9 digits, UTC) to ns since 1970."""
    whole, _, rest = time_text.rstrip("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1_000_000_000 + int((rest or "0").ljust(9, "0")[:9])
