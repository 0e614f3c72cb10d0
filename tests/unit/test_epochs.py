"""Epochs: whatever comes in, every change comes out once and in order, cut at commits."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.worker.epochs import Epochs

INCARNATION = uuid.uuid4()
START = (100, 0)
RELATION = b"R" + struct.pack(">I", 1) + b"public\0log\0d" + struct.pack(">H", 1)
RELATION += b"\0n\0" + struct.pack(">Ii", 25, -1)


def frame(message: bytes) -> bytes:
    data = b"w" + struct.pack(">QQq", 0, 0, 0) + message
    return struct.pack(">I", len(data)) + data


def transaction(number: int, sizes: list[int]) -> bytes:
    """Make a transaction that inserts one value of each size."""
    commit_lsn = 1000 * (number + 1)
    messages = [b"B" + struct.pack(">QqI", commit_lsn, 0, number), RELATION]
    for size in sizes:
        cell = struct.pack(">I", 1) + b"N" + struct.pack(">H", 1) + b"t" + struct.pack(">I", size)
        messages.append(b"I" + cell + b"x" * size)
    messages.append(b"C\0" + struct.pack(">QQq", commit_lsn, commit_lsn + 8, 0))
    return b"".join(map(frame, messages))


def assemble(transactions: list[list[int]], **limits: int) -> list[_core.Envelope]:
    assembler = _core.Assembler(INCARNATION.bytes, START, START[0], **limits)
    frames = b"".join(transaction(number, sizes) for number, sizes in enumerate(transactions))
    return [*assembler.feed(frames), *assembler.flush()]


def epochs(epoch_bytes: int = 1 << 20, changes: int = 1 << 30) -> Epochs:
    return Epochs(INCARNATION, START, epoch_bytes=epoch_bytes, epoch_changes=changes, is_start=True)


SIZES = st.lists(st.integers(0, 3000), min_size=1, max_size=12)


@given(
    transactions=st.lists(SIZES, min_size=1, max_size=12),
    target=st.integers(1, 4000),
    epoch_bytes=st.integers(1, 20_000),
    batch=st.integers(1, 30),
    greedy=st.booleans(),
)
def test_cuts_hold_everything_once_and_commit_only_where_a_transaction_ends(
    transactions: list[list[int]],
    target: int,
    epoch_bytes: int,
    batch: int,
    *,
    greedy: bool,
) -> None:
    envelopes = assemble(transactions, target_body_bytes=min(target, 4096), max_body_bytes=4096)
    waiting = epochs(epoch_bytes, batch)
    came_out: list[bytes] = []
    is_open = False
    for seq, envelope in enumerate(envelopes, 1):
        waiting.put(envelope.data, seq)
        while waiting.is_full or greedy:
            cut = waiting.cut()
            if cut is None:
                assert not waiting.is_full
                break
            assert cut.commits is not cut.last.transaction_open
            assert cut.units[-1].seq == seq or not greedy
            is_open = not cut.commits
            came_out += [data for unit in cut.units for data in unit.envelopes]
    while (cut := waiting.cut()) is not None:
        is_open = not cut.commits
        came_out += [data for unit in cut.units for data in unit.envelopes]
    assert came_out == [envelope.data for envelope in envelopes]
    assert not is_open


def test_an_epoch_is_as_large_as_its_limit_and_no_larger_than_one_envelope_more() -> None:
    envelopes = assemble([[100]] * 200, target_body_bytes=500)
    waiting = epochs(epoch_bytes=5000)
    for seq, envelope in enumerate(envelopes, 1):
        waiting.put(envelope.data, seq)
    cut = waiting.cut()
    assert cut is not None
    largest = max(len(envelope.data) for envelope in envelopes)
    assert 5000 <= sum(unit.size_bytes for unit in cut.units) < 5000 + largest


def test_what_is_known_is_dropped_and_what_overlaps_is_kept() -> None:
    fine = assemble([[1], [2], [3]], target_body_bytes=1)
    coarse = assemble([[1], [2], [3]], target_body_bytes=1 << 16)
    waiting = epochs()
    for seq, envelope in enumerate([fine[0], fine[0], fine[1], coarse[0], fine[2]], 1):
        waiting.put(envelope.data, seq)
    cut = waiting.cut()
    assert cut is not None
    assert [unit.seq for unit in cut.units] == [1, 3, 4]


@pytest.mark.parametrize("is_open", [True, False])
def test_the_commit_of_a_transaction_that_one_begins_inside_of_is_not_known_yet(
    *, is_open: bool
) -> None:
    # As a replicator sends it that died between the last change and the COMMIT.
    assembler = _core.Assembler(INCARNATION.bytes, (1000, 2), START[0])
    (envelope,) = [*assembler.feed(transaction(0, [1, 1])), *assembler.flush()]
    assert (envelope.changes, envelope.ordinal) == (0, 2)
    waiting = Epochs(
        INCARNATION, (1000, 2), epoch_bytes=1, epoch_changes=1, is_start=False, is_open=is_open
    )
    waiting.put(envelope.data, 1)
    cut = waiting.cut()
    assert (cut is not None and cut.commits) is is_open


def test_a_gap_is_a_gap_and_late_only_at_the_start() -> None:
    fine = assemble([[1], [2], [3]], target_body_bytes=1)
    with pytest.raises(PgfloError) as late:
        epochs().put(fine[1].data, 1)
    assert late.value.kind is errors.SINK_LATE
    waiting = epochs()
    waiting.put(fine[0].data, 1)
    with pytest.raises(PgfloError) as gap:
        waiting.put(fine[2].data, 2)
    assert gap.value.kind is errors.SINK_CHAIN_GAP


def test_an_envelope_of_another_incarnation_is_refused() -> None:
    (envelope,) = assemble([[1]])
    other = Epochs(uuid.uuid4(), START, epoch_bytes=1, epoch_changes=1, is_start=False)
    with pytest.raises(PgfloError, match="another incarnation"):
        other.put(envelope.data, 1)


def test_parts_that_do_not_follow_each_other_are_refused() -> None:
    envelopes = assemble([[5000]], max_body_bytes=1024, target_body_bytes=1024)
    assert len(envelopes) > 3
    waiting = epochs()
    waiting.put(envelopes[0].data, 1)
    with pytest.raises(PgfloError, match="part 2 follows part 0"):
        waiting.put(envelopes[2].data, 2)
