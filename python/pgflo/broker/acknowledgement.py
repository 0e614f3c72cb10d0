"""What the broker answers to a published message, and the inbox through which the answers come.

Upstream: the broker. Downstream: `publisher`, `lane_publisher`.
Invariant: every answer carries the tag of the message it belongs to, also after a reconnect; what
cannot be read counts as a refusal, never as stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from pgflo.broker.connection import Broker

WRONG_LAST_SEQUENCE = (10071, 10164)
STREAM_FULL = 10077
"""maximum bytes exceeded, under `discard=new`"""
TOO_LARGE = 10054
NOBODY_THERE = 503


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Stored if `err_code` is 0."""

    seq: int
    """Sequence under which the message is stored; 0 if it is not."""
    err_code: int
    """JetStream's number of the refusal; 503 without one: nothing listened on the subject."""
    text: str


class Inbox:
    """A subject of our own; each message asks for its answer at `reply_subject(tag)`."""

    def __init__(self, broker: Broker, take: Callable[[str, Answer], None]) -> None:
        self._broker = broker
        self._take = take
        self._prefix = broker.nc.new_inbox()
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Begin to listen. `take(tag, answer)` is called in the order of arrival."""
        self._subscription = await self._broker.subscribe(f"{self._prefix}.>", self._on_message)

    def reply_subject(self, tag: str) -> str:
        """Where the answer to the message tagged `tag` must go."""
        return f"{self._prefix}.{tag}"

    async def close(self) -> None:
        """Stop listening."""
        subscription, self._subscription = self._subscription, None
        await self._broker.unsubscribe(subscription)

    async def _on_message(self, message: Msg) -> None:
        self._take(message.subject[len(self._prefix) + 1 :], read_answer(message))


def read_answer(message: Msg) -> Answer:
    """Read an answer. Anything unreadable is a refusal."""
    if not message.data:
        status = (message.headers or {}).get("Status", "0")
        return Answer(0, int(status) if status.isdigit() else -1, "nothing listens on the subject")
    try:
        told = orjson.loads(message.data)
        if "error" in told:
            refused = told["error"]
            code = int(refused.get("err_code", 0)) or int(refused.get("code", 0)) or -1
            return Answer(0, code, str(refused.get("description", "refused")))
        return Answer(int(told["seq"]), 0, "")
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return Answer(0, -1, "an answer that cannot be read")
