"""Ranges of a table cover it without overlap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgflo.source.ranges import TableRanges, cut

BLOCK_BYTES = 8192


def cut_blocks(
    blocks: int,
    *,
    range_bytes: int = 1 << 26,
    workers: int = 4,
    toast_bytes: int = 0,
    heap: bool = True,
) -> TableRanges:
    return cut(
        1,
        heap_bytes=blocks * BLOCK_BYTES,
        total_bytes=blocks * BLOCK_BYTES + toast_bytes,
        block_bytes=BLOCK_BYTES,
        has_ctid_ranges=heap,
        range_bytes=range_bytes,
        workers_per_table=workers,
    )


@given(
    blocks=st.integers(0, 10_000_000),
    range_bytes=st.integers(8192, 1 << 31),
    workers=st.integers(1, 64),
    toast_bytes=st.integers(0, 1 << 42),
)
def test_ranges_follow_each_other_and_the_last_is_open(
    blocks: int, range_bytes: int, workers: int, toast_bytes: int
) -> None:
    ranges = cut_blocks(blocks, range_bytes=range_bytes, workers=workers, toast_bytes=toast_bytes)
    if ranges.ranges == 1:
        assert ranges.bounds(0) is None
        return
    shown = [0, 1, ranges.ranges - 2, ranges.ranges - 1]
    for number in shown:
        bounds = ranges.bounds(number)
        assert bounds is not None
        first, behind = bounds
        assert first == number * ranges.range_blocks < blocks
        assert behind == (None if number == ranges.ranges - 1 else first + ranges.range_blocks)


def test_a_large_table_gives_every_worker_several_ranges() -> None:
    assert cut_blocks(131072, workers=8).ranges >= 32


def test_a_small_table_is_read_in_one_piece() -> None:
    assert cut_blocks(100).ranges == 1


def test_a_table_that_lives_in_toast_gets_ranges_of_few_blocks() -> None:
    ranges = cut_blocks(1000, toast_bytes=100 * (1 << 30))
    assert ranges.ranges == 1000


def test_a_table_without_ctid_ranges_is_one_scan() -> None:
    assert cut_blocks(131072, heap=False).bounds(0) is None
