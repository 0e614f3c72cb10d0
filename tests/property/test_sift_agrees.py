"""Sifting leaves out what copies hold and moves nothing: against a filter over decoded changes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from tests.fix_property import within_budget
from tests.oracle.changes import Change, Reading, read_frames
from tests.oracle.copydata import decode_frame
from tests.oracle.envelope import parse
from tests.oracle.messages import LogicalMessage, Truncate
from tests.oracle.pgoutput import decode
from tests.oracle.wire import lengths_prefixed, split_lengths
from tests.property.histories import History, histories

from pgflo import _core

if TYPE_CHECKING:
    from tests.oracle.changes import Position

SKIP = b"~"
"""Type byte of the private message that passes over ordinals."""


@st.composite
def copies(draw: st.DrawFn) -> tuple[History, dict[int, int]]:
    """Draw a history, and consistent points of copies of some of its tables."""
    history = draw(histories())
    found = read_frames(map(decode_frame, history.payloads), (history.start_lsn, 0), 0)
    oids = sorted({relation.oid for change in found.changes for relation in change.relations})
    lsns = [commit.commit_lsn + near for commit in history.commits for near in (0, 1)]
    if not oids:
        return history, {}
    chosen = st.dictionaries(st.sampled_from(oids), st.sampled_from(lsns), max_size=3)
    return history, draw(chosen)


def read(body: bytes, prev: Position) -> list[tuple[Position, object]]:
    """Read a body whose ordinals may have gaps: each change with its position."""
    reading = Reading(prev, 0, carried=prev)
    for piece in split_lengths(body):
        if piece[:1] == SKIP:
            reading.ordinal += int.from_bytes(piece[1:], "big")
        else:
            reading.read(decode(piece))
    return [(change.position, change.message) for change in reading.changes]


def kept(change: Change, snapshots: dict[int, int]) -> tuple[Position, object] | None:
    """Say what must be left of a change."""

    def holds(oid: int) -> bool:
        return change.position[0] < snapshots.get(oid, 0)

    match change.message:
        case LogicalMessage():
            return change.position, change.message
        case Truncate() as truncate:
            oids = tuple(oid for oid in truncate.relation_oids if not holds(oid))
            left = dataclasses.replace(truncate, relation_oids=oids)
            return (change.position, left) if oids or not truncate.relation_oids else None
        case row:
            return None if holds(row.relation_oid) else (change.position, row)


@within_budget(drawn=copies(), most=st.sampled_from([1024, 4096, 917504]))
def test_what_a_copy_holds_is_left_out_and_the_rest_keeps_its_place(
    drawn: tuple[History, dict[int, int]], most: int
) -> None:
    history, snapshots = drawn
    start = (history.start_lsn, 0)
    assembler = _core.Assembler(
        bytes(16), start, history.start_lsn, max_body_bytes=most, target_body_bytes=most
    )
    made = assembler.feed(lengths_prefixed(list(history.payloads))) + assembler.flush()
    left: list[tuple[Position, object]] = []
    ahead = [parse(envelope.data) for envelope in made]
    while ahead:
        first = ahead[0]
        pieces, ahead = ahead[: first.parts], ahead[first.parts :]
        body = b"".join(piece.body for piece in pieces)
        sifted = _core.sift(body, first.prev, snapshots)
        assert sifted != body, "a body that stays as it is need not be written again"
        left += read(body if sifted is None else sifted, first.prev)
    everything = read_frames(map(decode_frame, history.payloads), start, history.start_lsn).changes
    wanted = [kept(change, snapshots) for change in everything]
    assert left == [change for change in wanted if change is not None]
