"""What JetStream sends to a consumer: messages with sequences, remarks about a pull request.

Upstream: the broker. Downstream: `consumer`.
Invariant: sequences are taken from the acknowledgement subject, in both of its formats.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nats.aio.msg import Msg

V1_TOKENS = 9
"""$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>"""
V2_TOKENS = 11
"""$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer
seq>.<time>.<pending>…"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a delivered message stands."""

    times_delivered: int
    stream_seq: int
    consumer_seq: int
    """Counts deliveries of this consumer from 1, redeliveries included."""
    stored_ns: int
    """When it was stored, ns since 1970."""


def read_ack_subject(subject: str) -> Delivery | None:
    """Read the reply subject of a delivered message; None if it is not one."""
    tokens = subject.split(".")
    if len(tokens) == V1_TOKENS:
        first = 4
    elif len(tokens) >= V2_TOKENS:
        first = 6
    else:
        return None
    if tokens[:2] != ["$JS", "ACK"]:
        return None
    try:
        delivered, stream_seq, consumer_seq, stored_ns = map(int, tokens[first : first + 4])
    except ValueError:
        return None
    return Delivery(delivered, stream_seq, consumer_seq, stored_ns)


class Remark(enum.Enum):
    """What a message without content says about a pull request."""

    ALIVE = "alive"
    """Nothing to deliver; the request stands."""
    ENDED = "ended"
    """The request is over: expired, or its bytes are used up. Ask again."""
    BROKEN = "broken"
    """The consumer is gone or moves: make it anew."""


def read_remark(message: Msg) -> tuple[Remark, str]:
    """Read a status message; anything unknown counts as BROKEN."""
    headers = message.headers or {}
    status, text = headers.get("Status", ""), headers.get("Description", "")
    if status == "100":
        return Remark.ALIVE, text
    if status in ("404", "408") or (
        status == "409" and "maxbytes" in text.lower().replace(" ", "")
    ):
        return Remark.ENDED, text
    return Remark.BROKEN, f"{status} {text}".strip()
