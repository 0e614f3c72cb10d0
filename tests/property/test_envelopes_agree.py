"""Envelopes of rows lose nothing, and no damage to an envelope or to a stream passes unnoticed."""

from __future__ import annotations

import contextlib

from hypothesis import strategies as st
from tests.fix_property import within_budget
from tests.golden import streams
from tests.oracle.changes import read_frames
from tests.oracle.copydata import decode_block
from tests.oracle.envelope import parse
from tests.oracle.wire import MalformedError
from tests.property.histories import History, histories
from tests.property.mutations import mutations

from pgflo import _core

INCARNATION = b"sixteen bytes id"
SMALL = [name for name in streams.NAMES if name not in ("wide", "toast")]


@within_budget(
    feeds=st.lists(st.lists(st.binary(max_size=90), max_size=9), max_size=9),
    target=st.integers(1, 200),
    numbers=st.tuples(*[st.integers(0, 2**32 - 1)] * 3, st.integers(0, 2**64 - 1)),
)
def test_the_parts_of_a_copied_range_concatenate_to_its_rows(
    feeds: list[list[bytes]], target: int, numbers: tuple[int, int, int, int]
) -> None:
    relation_oid, range_no, attempt, snapshot_lsn = numbers
    packer = _core.CopyPacker(
        INCARNATION,
        relation_oid,
        snapshot_lsn,
        range_no,
        attempt,
        target_body_bytes=target,
        max_body_bytes=1024,
    )
    made: list[bytes] = []
    feeds = [[row for row in rows if row] for rows in feeds]
    for rows in feeds:
        made += packer.feed(b"".join(rows), len(rows))
    made.append(packer.finish())
    whole = b"".join(row for rows in feeds for row in rows)
    count = sum(map(len, feeds))
    parts = [parse(envelope) for envelope in made]
    assert b"".join(part.body for part in parts) == whole
    assert [part.part_no for part in parts] == list(range(len(parts)))
    assert [part.final for part in parts] == [False] * (len(parts) - 1) + [True]
    assert sum(part.rows for part in parts) == parts[-1].total_rows == packer.rows == count
    assert packer.bytes == len(whole)
    for part, envelope in zip(parts, made, strict=True):
        assert len(part.body) <= 1024
        assert (part.relation_oid, part.range_no, part.attempt, part.snapshot_lsn) == numbers
        assert (part.kind, part.incarnation) == (_core.KIND_COPY, INCARNATION)
        header = _core.read_header(envelope)
        for name in ("part_no", "final", "rows", "total_rows", "relation_oid", "range_no"):
            assert getattr(header, name) == getattr(part, name), name
        assert (header.attempt, header.snapshot_lsn) == (attempt, snapshot_lsn)


def golden_envelopes() -> list[bytes]:
    """Make envelopes of every kind to be damaged."""
    made: list[bytes] = []
    for name in SMALL:
        first_lsn = 1
        assembler = _core.Assembler(INCARNATION, (first_lsn, 0), first_lsn, target_body_bytes=500)
        made += [each.data for each in assembler.feed(streams.block(name)) + assembler.flush()]
        if assembler.received_lsn > assembler.end_lsn:
            made.append(assembler.watermark(assembler.received_lsn).data)
    packer = _core.CopyPacker(INCARNATION, 1, 2, 3, 4, target_body_bytes=1024, max_body_bytes=1024)
    return [*made, *packer.feed(b"row" * 400, 400), packer.finish()]


@within_budget(damaged=mutations(st.deferred(lambda: st.sampled_from(golden_envelopes())), most=2))
def test_a_damaged_envelope_is_refused_by_both_readers(damaged: bytes) -> None:
    try:
        expected = parse(damaged)
    except MalformedError:
        expected = None
    try:
        header = _core.read_header(damaged)
    except _core.EnvelopeError:
        assert expected is None
    else:
        assert expected is not None
        assert (header.commit_lsn, header.ordinal) == expected.position
    # Without the checksum a lie may pass, but nothing worse happens than a refusal.
    with contextlib.suppress(_core.EnvelopeError):
        _core.read_header(damaged, verify=False)


@within_budget(block=mutations(st.sampled_from([streams.block(name) for name in SMALL])))
def test_a_damaged_stream_is_refused_or_told_as_the_oracle_reads_it(block: bytes) -> None:
    assembler = _core.Assembler(INCARNATION, (1, 0), 1)
    try:
        made = assembler.feed(block) + assembler.flush()
    except _core.CoreError:
        # What the oracle can read must have been out of order, or it stops there too; in either
        # case the assembler takes nothing more.
        refused_again = False
        try:
            assembler.feed(b"")
        except _core.EnvelopeError:
            refused_again = True
        assert refused_again
        return
    bodies = b"".join(parse(each.data).body for each in made)
    try:
        _core.decode_messages(bodies)
    except _core.DecodeError:
        return  # damage inside a row: the assembler passes rows on, their reader refuses them
    expected = read_frames(decode_block(block), (1, 0), 1)
    assert assembler.changes == len(expected.changes)
    assert assembler.in_transaction == (expected.open is not None)


@within_budget(history=histories(max_transactions=3), block=st.binary(max_size=60))
def test_after_a_refusal_an_assembler_refuses_everything(history: History, block: bytes) -> None:
    assembler = _core.Assembler(INCARNATION, (history.start_lsn, 0), history.start_lsn)
    failed = False
    for piece in [block, *(len(each).to_bytes(4) + each for each in history.payloads)]:
        try:
            assembler.feed(piece)
            assert not failed
        except _core.CoreError:
            failed = True
