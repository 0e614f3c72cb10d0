"""What is known of each shard: where its row stands, what it has been sent, what is under way.

Upstream: `shards` keeps it. Downstream: `spreading` and `dispatcher` read it.
Invariant: stored ≤ sent, and they are equal when the queue is empty.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pgflo._core import Header
    from pgflo.worker.child import Child


class Mark(NamedTuple):
    """A place in the stream: a position, and the LSN that is reached there."""

    position: tuple[int, int]
    end_lsn: int


def mark_of(header: Header) -> Mark:
    """Give the place where an envelope ends."""
    return Mark((header.commit_lsn, header.ordinal), header.end_lsn)


@dataclass(frozen=True, slots=True)
class Reached:
    """What all shards have committed."""

    mark: Mark
    seq: int
    """Stream sequence of the last envelope in it."""
    commit_time_us: int
    changes: int
    """Since it was told last."""


@dataclass(slots=True)
class Epoch:
    """An epoch under way."""

    last: Header
    waiting: int
    """Shards that have not answered."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A step that a shard has not answered."""

    epoch: Epoch | None
    mark: Mark
    moved: tuple[Shard, ...]
    """Shards whose rows it moves when it commits; none if it does not commit."""


@dataclass(slots=True)
class Shard:
    """One shard: its writer, and where its row stands."""

    number: int
    fence: int
    stored: Mark
    """Committed."""
    sent: Mark
    """Committed once all is answered."""
    told: Mark
    """What its writer believes."""
    child: Child | None = None
    queue: deque[Sent] = field(default_factory=deque)
    busy_since: float = 0.0
    """When it was started, or got the oldest step of `queue` to do, by the monotonic clock."""
    is_starting: bool = False
    """Its writer has not taken its row yet."""
    is_open: bool = False
    """Its transaction is begun, and no step has been sent that ends it."""
