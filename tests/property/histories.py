"""Draws whole streams as a walsender would send them: transactions, relations, keepalives.

Upstream: `messages`. Downstream: property tests of the assembler. What is drawn has the shapes that
a server can send and that are easy to get wrong: no change at all, a commit record that starts
where the last one ended, relations described again, loose messages anywhere, large rows.
Invariant: commit LSNs ascend strictly, a transaction ends before the next one's commit begins.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hypothesis import strategies as st
from tests.oracle.copydata import Keepalive, decode_frame
from tests.oracle.encode import encode, keepalive, wal_data
from tests.oracle.messages import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    RelationColumn,
    Truncate,
    Type,
    Update,
)
from tests.oracle.pgoutput import decode
from tests.oracle.wire import lengths_prefixed
from tests.property.messages import CELLS, IDENTITIES, NAMES

if TYPE_CHECKING:
    from tests.oracle.changes import Position
    from tests.oracle.messages import Cell, Row


@dataclass(frozen=True, repr=False)
class History:
    """A stream: its CopyData payloads, and the places where one may start to read."""

    start_lsn: int
    payloads: tuple[bytes, ...]
    commits: tuple[Commit, ...]
    counts: tuple[int, ...]

    def __repr__(self) -> str:
        """Show LSNs and kinds; the seed gives the rest."""
        kinds = "".join(chr(payload[25]) if len(payload) > 25 else "k" for payload in self.payloads)
        ends = [(commit.commit_lsn, commit.end_lsn) for commit in self.commits]
        return f"History(start_lsn={self.start_lsn}, {kinds!r}, commits={ends})"

    def starts(self) -> list[tuple[Position, int]]:
        """All (position, end_lsn) at which a former reader may have stopped."""
        places = [((self.start_lsn, 0), self.start_lsn)]
        end_lsn = self.start_lsn
        for commit, count in zip(self.commits, self.counts, strict=True):
            # Inside it, also behind its last change with the commit not read.
            places += [((commit.commit_lsn, n), end_lsn) for n in range(1, count + 1)]
            end_lsn = commit.end_lsn
            if count > 0:
                places.append(((commit.commit_lsn, count), end_lsn))
            places.append(((end_lsn, 0), end_lsn))  # a watermark
        return places

    def sent_from(self, end_lsn: int) -> tuple[bytes, ...]:
        """Return what a server sends to one who starts there: no transaction that commits below.

        Descriptions stay: a server gives them anew in every session.
        """
        kept: list[bytes] = []
        passed = False
        for payload in self.payloads:
            frame = decode_frame(payload)
            if isinstance(frame, Keepalive):
                kept.append(payload)
                continue
            message = decode(frame.message)
            if isinstance(message, Begin):
                passed = message.final_lsn < end_lsn
            if not passed or isinstance(message, Relation | Type):
                kept.append(payload)
            if isinstance(message, Commit):
                passed = False
        return tuple(kept)


@st.composite
def relations(draw: st.DrawFn, oid: int) -> Relation:
    """Draw a definition; key columns and identity need not fit, nobody here looks at them."""
    columns = [
        RelationColumn(draw(st.integers(0, 1)), name, draw(st.sampled_from([23, 25, 3802])), -1)
        for name in draw(st.lists(NAMES, min_size=1, max_size=4))
    ]
    return Relation(oid, draw(NAMES), draw(NAMES), draw(IDENTITIES), tuple(columns))


@st.composite
def rows(draw: st.DrawFn, relation: Relation) -> Row:
    """Draw a row that fits a relation, now and then a large one."""
    cells: list[Cell] = [draw(CELLS) for _ in relation.columns]
    if draw(st.integers(0, 19)) == 0:
        cells[0] = ("t", draw(st.binary(min_size=1, max_size=3)) * draw(st.integers(300, 1200)))
    return tuple(cells)


@st.composite
def changes(
    draw: st.DrawFn, known: list[Relation]
) -> Insert | Update | Delete | Truncate | LogicalMessage:
    """Draw something that counts."""
    kind = draw(st.sampled_from("IIIUUUDTM"))
    relation = draw(st.sampled_from(known))
    match kind:
        case "I":
            return Insert(relation.oid, draw(rows(relation)))
        case "U":
            if draw(st.booleans()):
                return Update(relation.oid, "", None, draw(rows(relation)))
            old_kind: Literal["K", "O"] = draw(st.sampled_from(["K", "O"]))
            return Update(relation.oid, old_kind, draw(rows(relation)), draw(rows(relation)))
        case "D":
            return Delete(relation.oid, draw(st.sampled_from(["K", "O"])), draw(rows(relation)))
        case "T":
            several = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
            return Truncate(draw(st.integers(0, 3)), tuple(each.oid for each in several))
        case _:
            return LogicalMessage(1, 0, draw(NAMES), draw(st.binary(max_size=30)))


class _Walsender:
    """What a server would send while a history is drawn."""

    def __init__(self, draw: st.DrawFn, start_lsn: int) -> None:
        self.draw = draw
        self.at_lsn = start_lsn
        self.payloads: list[bytes] = []
        self.commits: list[Commit] = []
        self.counts: list[int] = []
        self.definitions: dict[int, Relation] = {}
        self.described: set[int] = set()

    def send(self, message: Message, lsn: int) -> None:
        """Send one message in a frame of that LSN."""
        self.payloads.append(wal_data(encode(message), start_lsn=lsn, end_lsn=lsn))

    def describe(self, oid: int) -> Relation:
        """Send a relation before its first use, and again at will, changed or not."""
        draw = self.draw
        if oid not in self.described or draw(st.integers(0, 9)) == 0:
            if oid not in self.definitions or draw(st.booleans()):
                self.definitions[oid] = draw(relations(oid))
            if draw(st.integers(0, 4)) == 0:
                self.send(Type(draw(st.integers(16384, 16390)), b"public", b"mood"), 0)
            self.send(self.definitions[oid], 0)
            self.described.add(oid)
        return self.definitions[oid]

    def interlude(self) -> None:
        """Send, now and then, what may stand anywhere."""
        match self.draw(st.integers(0, 11)):
            case 0:
                asked = self.draw(st.booleans())
                sent_us = self.draw(st.integers(0, 2**62))
                self.payloads.append(
                    keepalive(end_lsn=self.at_lsn, sent_us=sent_us, reply_requested=asked)
                )
            case 1:
                content = self.draw(st.binary(max_size=9))
                self.send(LogicalMessage(0, self.at_lsn, b"loose", content), self.at_lsn)

    def transaction(self, count: int) -> None:
        """Send one transaction of `count` changes."""
        draw = self.draw
        # 0: the commit record starts where the last one ended, its changes were logged before.
        commit_lsn = self.at_lsn + draw(st.sampled_from([0, 1, 8, 56, 300]))
        time_us = draw(st.integers(0, 2**50))
        # Frames carry the LSN of a change, which is anywhere in front of the commit record.
        self.at_lsn = draw(st.integers(self.at_lsn, commit_lsn))
        self.send(Begin(commit_lsn, time_us, draw(st.integers(3, 2**32 - 1))), self.at_lsn)
        if draw(st.integers(0, 5)) == 0:
            self.send(Origin(draw(st.integers(0, 2**63)), draw(NAMES)), self.at_lsn)
        for _ in range(count):
            self.interlude()
            known = [self.describe(oid) for oid in draw(st.sets(st.integers(1, 4), min_size=1))]
            self.send(draw(changes(known)), self.at_lsn)
        commit = Commit(0, commit_lsn, commit_lsn + draw(st.integers(1, 80)), time_us)
        self.send(commit, commit.end_lsn)
        self.commits.append(commit)
        self.counts.append(count)
        self.at_lsn = commit.end_lsn


@st.composite
def histories(draw: st.DrawFn, *, max_transactions: int = 6, max_changes: int = 8) -> History:
    """Draw a stream from a slot's consistent point on."""
    start_lsn = draw(st.integers(1, 2**40))
    sender = _Walsender(draw, start_lsn)
    for count in draw(st.lists(st.integers(0, max_changes), max_size=max_transactions)):
        sender.interlude()
        sender.transaction(count)
    sender.interlude()
    return History(start_lsn, tuple(sender.payloads), tuple(sender.commits), tuple(sender.counts))


@st.composite
def blocks(draw: st.DrawFn, payloads: tuple[bytes, ...]) -> list[bytes]:
    """Cut payloads into blocks of whole frames, as a pump happens to deliver them."""
    cuts = sorted(draw(st.sets(st.integers(0, len(payloads)), max_size=8)))
    edges = [0, *cuts, len(payloads)]
    return [lengths_prefixed(list(payloads[a:b])) for a, b in itertools.pairwise(edges)]
