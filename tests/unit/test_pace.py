"""The pace of reading: at once where little comes, in gulps where a source keeps coming."""

from __future__ import annotations

from pgflo.replicator.pace import CUT_SPACING_S, GULP_S, Pace

MUCH_BYTES = 1024 * 1024


def reads(
    pace: Pace, *, start_s: float, count: int, each_bytes: int, every_s: float
) -> list[float]:
    """Read `count` times and give what each read was told to wait; nothing is cut meanwhile."""
    waits = []
    for number in range(1, count + 1):
        pace.took(each_bytes)
        waits.append(pace.wait_s(start_s + number * every_s, start_s))
    return waits


def test_single_transactions_are_published_as_soon_as_the_last_envelope_is_a_little_old() -> None:
    pace = Pace()
    waits = reads(pace, start_s=100.0, count=50, each_bytes=200, every_s=CUT_SPACING_S)
    assert all(wait <= 0 for wait in waits)


def test_one_burst_alone_is_not_waited_for() -> None:
    pace = Pace()
    reads(pace, start_s=100.0, count=1, each_bytes=200, every_s=1.0)
    burst = reads(pace, start_s=101.0, count=1, each_bytes=MUCH_BYTES, every_s=CUT_SPACING_S)
    after = reads(pace, start_s=101.0 + CUT_SPACING_S, count=1, each_bytes=200, every_s=0.002)
    assert max(*burst, *after) <= 0


def test_a_source_that_keeps_coming_is_read_in_gulps_however_small_the_single_reads_are() -> None:
    pace = Pace()
    pace.wait_s(100.0, 100.0)
    waits = reads(pace, start_s=100.0, count=100, each_bytes=2048, every_s=0.0001)
    assert waits[-1] == GULP_S
    gulps = reads(pace, start_s=100.01, count=5, each_bytes=MUCH_BYTES, every_s=GULP_S)
    assert gulps == [GULP_S] * 5


def test_gulps_end_with_the_first_that_brings_little() -> None:
    pace = Pace()
    pace.wait_s(100.0, 100.0)
    reads(pace, start_s=100.0, count=4, each_bytes=MUCH_BYTES, every_s=CUT_SPACING_S)
    (wait,) = reads(pace, start_s=100.01, count=1, each_bytes=200, every_s=GULP_S)
    assert wait <= 0
