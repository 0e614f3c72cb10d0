"""Envelopes say exactly what their stream said, from any start, however it arrives and is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from tests.fix_property import within_budget
from tests.oracle.changes import read_frames
from tests.oracle.copydata import Keepalive, decode_frame
from tests.oracle.encode import encode, wal_data
from tests.oracle.envelope import parse, read_envelopes
from tests.oracle.messages import Begin, Commit, Insert, Relation, RelationColumn
from tests.oracle.wire import lengths_prefixed
from tests.property.histories import History, blocks, histories

from pgflo import _core

if TYPE_CHECKING:
    from tests.oracle.changes import Position

INCARNATION = bytes(range(16))


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, int]:
    """Draw sizes small enough to be reached by a few rows."""
    most = draw(st.sampled_from([1024, 1025, 1500, 4096, 917504]))
    return {"max_body_bytes": most, "target_body_bytes": draw(st.integers(1, most))}


@st.composite
def runs(draw: st.DrawFn) -> tuple[History, tuple[Position, int], list[bytes], dict[str, int]]:
    """Draw a history, a place to start, the blocks in which it arrives, and sizes."""
    history = draw(histories())
    start = draw(st.sampled_from(history.starts()))
    return history, start, draw(blocks(history.payloads)), draw(sizes())


def assemble(
    start: tuple[Position, int], arriving: list[bytes], limits: dict[str, int], flushes: list[bool]
) -> tuple[_core.Assembler, list[_core.Envelope]]:
    """Feed blocks, flush after those that `flushes` names and at the end."""
    position, end_lsn = start
    assembler = _core.Assembler(INCARNATION, position, end_lsn, **limits)
    made: list[_core.Envelope] = []
    for number, block in enumerate(arriving):
        made += assembler.feed(block)
        if flushes[number % len(flushes)]:
            made += assembler.flush()
    made += assembler.flush()
    return assembler, made


FLUSHES = st.lists(st.booleans(), min_size=1, max_size=5)


@within_budget(run=runs(), flushes=FLUSHES)
def test_envelopes_tell_every_change_behind_the_start_once_and_in_order(
    run: tuple[History, tuple[Position, int], list[bytes], dict[str, int]], flushes: list[bool]
) -> None:
    history, start, arriving, limits = run
    expected = read_frames(map(decode_frame, history.payloads), *start)
    assembler, made = assemble(start, arriving, limits, flushes)
    found = read_envelopes([envelope.data for envelope in made], *start)
    assert found.changes == expected.changes
    assert found.position == expected.position
    assert (assembler.commit_lsn, assembler.ordinal) == expected.position
    assert assembler.end_lsn == expected.end_lsn
    assert assembler.changes == len(expected.changes)
    assert assembler.commits == len(history.commits)
    assert assembler.frames == len(history.payloads)
    assert not assembler.in_transaction
    assert assembler.pending_bytes == 0


@within_budget(run=runs(), flushes=FLUSHES)
def test_every_envelope_keeps_its_limits_and_its_header_agrees_with_its_attributes(
    run: tuple[History, tuple[Position, int], list[bytes], dict[str, int]], flushes: list[bool]
) -> None:
    _, start, arriving, limits = run
    _, made = assemble(start, arriving, limits, flushes)
    for envelope in made:
        parsed = parse(envelope.data)
        header = _core.read_header(envelope.data)
        assert len(parsed.body) <= limits["max_body_bytes"]
        # Only a change that does not fit alone comes in parts.
        assert parsed.parts == 1 or parsed.changes == 1
        assert (envelope.commit_lsn, envelope.ordinal) == parsed.position
        assert (header.prev_commit_lsn, header.prev_ordinal) == parsed.prev
        assert (header.commit_lsn, header.ordinal) == parsed.position
        for name in ("kind", "end_lsn", "transaction_open", "changes", "part", "parts"):
            assert getattr(envelope, name) == getattr(header, name) == getattr(parsed, name), name
        assert header.body_bytes == len(parsed.body)
        assert header.incarnation == parsed.incarnation == INCARNATION
        assert header.commit_time_us == parsed.commit_time_us


@within_budget(first=st.integers(1, 600), slack=st.integers(-70, 70), target=st.integers(900, 1024))
def test_a_change_that_would_not_quite_fit_starts_the_next_envelope(
    first: int, slack: int, target: int
) -> None:
    relation = Relation(1, b"s", b"t", b"d", (RelationColumn(1, b"c", 25, -1),))
    # Length, Begin, Relation and Commit around two rows, give or take the slack.
    second = 1024 - 2 * (4 + 21) - 2 * (4 + 26) - (4 + len(encode(relation))) - 2 * 17 - first
    payloads = [wal_data(encode(relation), start_lsn=0, end_lsn=0)]
    for lsn, size in ((10, first), (30, max(1, second + slack))):
        row = Insert(1, (("t", bytes(size)),))
        payloads += [
            wal_data(encode(message), start_lsn=lsn, end_lsn=lsn)
            for message in (Begin(lsn, 0, 9), row, Commit(0, lsn, lsn + 9, 0))
        ]
    limits = {"target_body_bytes": target, "max_body_bytes": 1024}
    _, made = assemble(((1, 0), 1), [lengths_prefixed(payloads)], limits, [False])
    bodies = [parse(envelope.data) for envelope in made]
    assert all(body.parts == 1 or body.changes == 1 for body in bodies)
    assert all(len(body.body) <= 1024 for body in bodies)
    # Four bytes are kept for an origin, also where there is none.
    assert len(bodies) == 1 or slack > -4 or len(bodies[0].body) >= target


@within_budget(history=histories(), limits=sizes())
def test_no_more_is_pending_than_one_envelope_and_one_change_with_its_descriptions(
    history: History, limits: dict[str, int]
) -> None:
    messages = [payload[25:] for payload in history.payloads if payload[:1] == b"w"]
    descriptions = sum(4 + len(each) for each in messages if each[:1] in b"RY")
    largest = max((4 + len(each) for each in messages), default=0)
    # Begin, Origin and Commit take less than 200 bytes together.
    most = limits["max_body_bytes"] + largest + descriptions + 200
    assembler = _core.Assembler(INCARNATION, (history.start_lsn, 0), history.start_lsn, **limits)
    for payload in history.payloads:
        assembler.feed(lengths_prefixed([payload]))
        assert assembler.pending_bytes <= most


@within_budget(run=runs(), first=st.integers(0, 30), flushes=FLUSHES)
def test_a_new_assembler_goes_on_where_any_envelope_of_a_former_one_ended(
    run: tuple[History, tuple[Position, int], list[bytes], dict[str, int]],
    first: int,
    flushes: list[bool],
) -> None:
    history, start, arriving, limits = run
    _, made = assemble(start, arriving, limits, flushes)
    # The former process died after an envelope whose last part was stored.
    ends = [n + 1 for n, envelope in enumerate(made) if envelope.part + 1 == envelope.parts]
    kept = made[: ends[first % len(ends)]] if ends else []
    if kept:
        last = kept[-1]
        restart = ((last.commit_lsn, last.ordinal), last.end_lsn)
    else:
        restart = start
    resent = [lengths_prefixed(list(history.sent_from(restart[1])))]
    _, rest = assemble(restart, resent, limits, [False])
    found = read_envelopes([envelope.data for envelope in [*kept, *rest]], *start)
    assert found.changes == read_frames(map(decode_frame, history.payloads), *start).changes


@within_budget(history=histories(), data=st.data())
def test_a_watermark_is_made_only_where_it_tells_the_truth_and_the_chain_goes_on_behind_it(
    history: History, data: st.DataObject
) -> None:
    start = ((history.start_lsn, 0), history.start_lsn)
    assembler = _core.Assembler(INCARNATION, *start)
    made: list[_core.Envelope] = []
    chain_end_lsn = received_lsn = keepalive_lsn = history.start_lsn
    for arriving in data.draw(blocks(history.payloads)):
        made += assembler.feed(arriving)
        if data.draw(st.booleans()):
            made += assembler.flush()
        wanted_lsn = data.draw(
            st.sampled_from([assembler.end_lsn, assembler.received_lsn, assembler.keepalive_lsn])
        ) + data.draw(st.integers(-1, 1))
        if wanted_lsn < 0:
            continue
        chain_end_lsn = made[-1].end_lsn if made else history.start_lsn
        truthful = (
            not assembler.in_transaction
            and assembler.pending_bytes == 0
            and assembler.end_lsn <= wanted_lsn <= assembler.received_lsn
            and wanted_lsn > chain_end_lsn
        )
        try:
            mark = assembler.watermark(wanted_lsn)
        except _core.EnvelopeError:
            assert not truthful
        else:
            assert truthful
            made.append(mark)
    made += assembler.flush()
    found = read_envelopes([envelope.data for envelope in made], *start)
    frames = [decode_frame(payload) for payload in history.payloads]
    assert found.changes == read_frames(frames, *start).changes
    seen = [frame.end_lsn for frame in frames if isinstance(frame, Keepalive)]
    assert assembler.keepalive_lsn == (seen[-1] if seen else 0)
    assert (received_lsn, keepalive_lsn) <= (assembler.received_lsn, assembler.received_lsn)


@within_budget(history=histories())
def test_a_request_for_an_answer_is_told_once_with_the_time_it_was_sent(history: History) -> None:
    assembler = _core.Assembler(INCARNATION, (history.start_lsn, 0), history.start_lsn)
    for payload in history.payloads:
        assembler.feed(len(payload).to_bytes(4) + payload)
        frame = decode_frame(payload)
        asked = isinstance(frame, Keepalive) and frame.reply_requested
        assert assembler.take_reply_request() == (frame.sent_us if asked else None)
        assert assembler.take_reply_request() is None
