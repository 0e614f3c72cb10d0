"""The envelopes that are on their way: which sequence each must get, and what is stored.

Upstream: `publisher` adds and sends. Downstream: nothing; this is plain bookkeeping.
Invariant: stored_seq <= sent_seq, and the window holds exactly the sequences behind stored_seq,
without a hole, in the order in which they were added.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgflo._core import Envelope


@dataclass(frozen=True, slots=True)
class Numbered:
    """An envelope and the only sequence under which it may be stored."""

    seq: int
    envelope: Envelope


class Window:
    """Envelopes of one run that are not known to be stored."""

    def __init__(self, base_seq: int, base_id: str | None, id_prefix: str) -> None:
        self.bytes = 0
        self.stored_seq = base_seq
        """Everything up to here is stored."""
        self.sent_seq = base_seq
        """Everything up to here was sent since the last `rewind`."""
        self._base_seq = base_seq
        self._base_id = base_id
        self._id_prefix = id_prefix
        self._waiting: deque[Numbered] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, envelope: Envelope) -> None:
        """Put an envelope behind all others."""
        self._waiting.append(Numbered(self.stored_seq + len(self._waiting) + 1, envelope))
        self.bytes += len(envelope.data)

    def oldest(self) -> Envelope:
        """Give the envelope that must be stored next. IndexError when there is none."""
        return self._waiting[0].envelope

    def unsent(self) -> Numbered | None:
        """Give the envelope that must be sent next; None when all are sent."""
        place = self.sent_seq - self.stored_seq
        return self._waiting[place] if place < len(self._waiting) else None

    def mark_sent(self, seq: int) -> None:
        """Note that everything up to `seq` was sent."""
        self.sent_seq = max(self.sent_seq, seq)

    def rewind(self) -> None:
        """Forget what was sent: everything that is not stored is to be sent again."""
        self.sent_seq = self.stored_seq

    def settle(self, seq: int) -> Iterator[Envelope]:
        """Take out, in order, what is stored by the time that `seq` is.

        One sequence speaks for all before it: none could be stored without its predecessor.
        """
        while self._waiting and self._waiting[0].seq <= seq:
            numbered = self._waiting.popleft()
            self.bytes -= len(numbered.envelope.data)
            self.stored_seq = numbered.seq
            self.sent_seq = max(self.sent_seq, self.stored_seq)
            yield numbered.envelope

    def id_of(self, seq: int) -> str | None:
        """Tell the id that the message `seq` must have; None if that is not known."""
        if seq <= self._base_seq:
            return self._base_id if seq == self._base_seq else None
        return f"{self._id_prefix}{seq - self._base_seq}"
