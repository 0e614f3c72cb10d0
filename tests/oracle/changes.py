"""What must reach a destination, without envelopes: frames and a start in, positioned changes out.

Upstream: `copydata` frames or, on the other side of the broker, the joined bodies of envelopes.
Invariant: a change stands at (commit_lsn, ordinal) in its transaction, ordinals count inserts,
updates, deletes, truncates and transactional messages from 1; the list is strictly ascending. A
transaction without changes moves `end_lsn`, not the position.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from tests.oracle.copydata import Frame, Keepalive
from tests.oracle.messages import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    Truncate,
    Type,
    Update,
)
from tests.oracle.pgoutput import decode
from tests.oracle.wire import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterable

Position: TypeAlias = tuple[int, int]
"""(commit_lsn, ordinal)."""


@dataclass(frozen=True)
class Change:
    """One counted change, its transaction, the relations it speaks of as defined at its place."""

    position: Position
    begin: Begin
    origin: Origin | None
    relations: tuple[Relation, ...]
    message: Insert | Update | Delete | Truncate | LogicalMessage


@dataclass
class Reading:
    """The state while messages pass: where we are, which relations are known, what came out."""

    position: Position
    end_lsn: int
    changes: list[Change] = field(default_factory=list)
    carried: Position | None = None
    """Where the body before this one ended: a transaction may go on from there."""
    commit_time_us: int = 0
    relations: dict[int, Relation] = field(default_factory=dict)
    open: Begin | None = None
    origin: Origin | None = None
    ordinal: int = 0

    def read(self, message: Message) -> None:
        """Take one message; changes at or before `position` are passed over."""
        match message:
            case Begin():
                self._begin(message)
            case Commit():
                self._commit(message)
            case Relation():
                self.relations[message.oid] = message
            case Origin():
                self._origin(message)
            case Type():
                pass
            case LogicalMessage(transactional=False):
                pass
            case _:
                self._change(message)

    def _begin(self, begin: Begin) -> None:
        if self.open is not None:
            raise MalformedError("a transaction begins inside another")
        self.open, self.ordinal, self.origin = begin, 0, None
        if self.carried is not None and self.carried[0] == begin.final_lsn:
            self.ordinal = self.carried[1]

    def _origin(self, origin: Origin) -> None:
        if self.open is None:
            raise MalformedError("an origin outside a transaction")
        self.origin = origin

    def _commit(self, commit: Commit) -> None:
        if self.open is None or self.open.final_lsn != commit.commit_lsn:
            raise MalformedError("a commit without its begin")
        self.end_lsn = max(self.end_lsn, commit.end_lsn)
        self.commit_time_us = commit.commit_time_us
        self.open = None

    def _change(self, message: Insert | Update | Delete | Truncate | LogicalMessage) -> None:
        if self.open is None:
            raise MalformedError("a change outside a transaction")
        self.ordinal += 1
        here = (self.open.final_lsn, self.ordinal)
        relations = tuple(self._relation(oid) for oid in _oids(message))
        if here > self.position:
            self.position = here
            self.changes.append(Change(here, self.open, self.origin, relations, message))

    def _relation(self, oid: int) -> Relation:
        known = self.relations.get(oid)
        if known is None:
            raise MalformedError(f"relation {oid} was never described")
        return known


def _oids(message: Insert | Update | Delete | Truncate | LogicalMessage) -> tuple[int, ...]:
    match message:
        case Truncate():
            return message.relation_oids
        case LogicalMessage():
            return ()
        case _:
            return (message.relation_oid,)


def read_frames(frames: Iterable[Frame], position: Position, end_lsn: int) -> Reading:
    """Say what frames mean to somebody who already has everything up to `position`."""
    reading = Reading(position, end_lsn)
    for frame in frames:
        if not isinstance(frame, Keepalive):
            reading.read(decode(frame.message))
    return reading
