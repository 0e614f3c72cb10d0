"""Numbers of a copy: what is known is told, what is not is left out, and nothing counts twice."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from structlog.testing import capture_logs
from tests.table_records import table

from pgflo.broker.copy_progress import CopyProgress, TableProgress, completed, standing
from pgflo.cli.progress import Lines, draw, shown
from pgflo.replicator.progress import CopyTally
from pgflo.replicator.speed import MEANINGFUL_S, WINDOW_S, Speed
from pgflo.source.ranges import estimate_rows
from pgflo.status.show import duration

MB = 1024 * 1024


class Clock:
    """A clock that is set by hand."""

    now_s = 1000.0

    def __call__(self) -> float:
        """Give the time, in seconds."""
        return self.now_s


def text_of(progress: CopyProgress) -> str:
    console = Console(width=160)
    with console.capture() as drawn:
        console.print(draw(progress))
    return drawn.get()


def test_rates_and_times_that_are_left_are_those_of_the_present() -> None:
    clock = Clock()
    tally = CopyTally(
        [table(1, 10, 100 * MB, estimated_rows=900), table(2, 1, 0)], None, clock=clock
    )
    # GIVEN a range of 100 rows each second
    for range_no in range(5):
        tally.start(1, range_no)
        clock.now_s += 1
        tally.finish_range(1, range_no, 100, 10 * MB)
        seen = tally.look()
    # THEN the other half takes as long again, and rows tell more than statistics
    one, two = seen.tables
    assert (one.ranges_done, one.rows, one.bytes, one.seconds) == (5, 500, 50 * MB, 5.0)
    assert (one.rows_per_s, one.bytes_per_s) == (100, 10 * MB)
    assert (one.fraction, one.estimated_rows) == (0.5, 1000)
    assert one.eta_s == pytest.approx(5.0)
    assert seen.eta_s == pytest.approx(5.0, rel=0.01)
    assert seen.rows_per_s == 100
    # and of a table that waits nothing is guessed
    assert (two.rows_per_s, two.eta_s, two.seconds, two.is_begun) == (None, None, 0.0, False)
    assert seen.estimated_rows is None
    # WHEN nothing moves any more, no time is told instead of a wrong one
    for _ in range(int(WINDOW_S) + 2):
        clock.now_s += 1
        seen = tally.look()
    assert seen.tables[0].rows_per_s == 0
    assert seen.tables[0].eta_s is seen.eta_s is None


def test_before_there_is_enough_to_judge_by_no_rate_is_told() -> None:
    clock = Clock()
    tally = CopyTally([table(1, 2, MB)], None, clock=clock)
    for seconds in (0.0, MEANINGFUL_S - 0.1):
        clock.now_s = Clock.now_s + seconds
        tally.start(1, 0)
        tally.move_range(1, 0, 10, 1000)
        seen = tally.look()
        assert seen.rows_per_s is seen.eta_s is seen.tables[0].rows_per_s is None
        assert "?" not in text_of(seen)


def test_an_attempt_that_is_lost_takes_its_rows_along() -> None:
    clock = Clock()
    tally = CopyTally([table(1, 2, MB)], None, clock=clock)
    tally.start(1, 0)
    tally.move_range(1, 0, 70, 7000)
    assert tally.look().rows == 70
    clock.now_s += 5
    tally.forget_range(1, 0)
    seen = tally.look()
    assert (seen.rows, seen.tables[0].rows_per_s, seen.eta_s) == (0, 0, None)


def test_a_copy_that_goes_on_counts_what_former_runs_did() -> None:
    clock = Clock()
    done = table(1, 2, 4 * MB, published_ranges=2, published_rows=40, copy_s=4.0)
    half = table(2, 2, 2 * MB, published_ranges=1, published_rows=5, copy_s=1.0)
    told: list[CopyProgress] = []
    tally = CopyTally([half, done, table(3, 0, 0)], told.append, incarnation="i", clock=clock)
    tally.add_former(CopyProgress("i", 1, (), seconds=6.0))
    tally.start(2, 1)
    clock.now_s += 2
    tally.finish_range(2, 1, 10, 1000)
    tally.tell_if_due(finished=True)
    (whole,) = told
    # A table of which only changes are wanted is no part of the copy.
    assert [one.table for one in whole.tables] == ["public.t1", "public.t2"]
    assert (whole.rows, whole.seconds, whole.tables_done, whole.eta_s) == (55, 8.0, 2, 0.0)
    assert whole.rows_per_s == pytest.approx(55 / 8)
    assert [one.seconds for one in whole.tables] == [4.0, 3.0]
    assert [one.rows_per_s for one in whole.tables] == [10.0, 5.0]
    assert "copied  2 of 2 tables  55 rows" in text_of(whole)
    assert tally.seconds(2) == 3.0
    # and another incarnation's time is its own
    other = CopyTally([half], None, incarnation="j", clock=clock)
    other.add_former(CopyProgress("i", 1, (), seconds=6.0))
    assert other.look().seconds == 0.0


def test_an_empty_copy_divides_by_nothing() -> None:
    tally = CopyTally([table(1, 1, 0)], None, clock=Clock())
    tally.start(1, 0)
    assert tally.look().fraction == 0.0
    tally.finish_range(1, 0, 0, 0)
    whole = tally.look(finished=True)
    assert (whole.fraction, whole.rows_per_s, whole.tables[0].rows_per_s) == (1.0, None, None)
    assert CopyProgress("", 0, ()).fraction == 1.0
    text_of(whole)


@given(
    tables=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 10 * MB)), min_size=1, max_size=3),
    events=st.lists(
        st.tuples(
            st.sampled_from(["start", "move", "forget", "finish"]),
            st.floats(0, 20),
            st.integers(0, 1000),
            st.integers(0, 40 * MB),
        ),
        max_size=30,
    ),
)
def test_numbers_stay_within_what_there_is(
    tables: list[tuple[int, int]], events: list[tuple[str, float, int, int]]
) -> None:
    clock = Clock()
    records = [table(oid, *sizes) for oid, sizes in enumerate(tables)]
    tally = CopyTally(records, None, clock=clock)
    waiting = [(record.oid, number) for record in records for number in range(record.ranges)]
    running: list[tuple[int, int]] = []
    for event, seconds, rows, size in events:
        clock.now_s += seconds
        if event == "start" and waiting:
            running.append(waiting.pop())
            tally.start(*running[-1])
        elif event == "move" and running:
            tally.move_range(*running[0], rows, size)
        elif event == "forget" and running:
            waiting.append(running.pop(0))
            tally.forget_range(*waiting[-1])
        elif event == "finish" and running:
            tally.finish_range(*running.pop(0), rows, size)
        seen = tally.look()
        parts: tuple[CopyProgress | TableProgress, ...] = (seen, *seen.tables)
        for part in parts:
            assert 0 <= part.fraction <= 1
            assert part.eta_s is None or part.eta_s >= 0
            assert part.rows_per_s is None or part.rows_per_s >= 0
            assert part.estimated_rows is None or part.estimated_rows >= part.rows
        assert all((one.fraction == 1) == one.is_done for one in seen.tables)
        assert CopyProgress.from_json(seen.to_json()) == seen
        text_of(seen)


def test_status_takes_what_was_told_until_the_record_has_more() -> None:
    record = table(1, 4, MB, published_ranges=1, published_rows=10, running_ranges=2)
    moving = replace(standing(record), rows=25, rows_per_s=5.0, eta_s=9.0)
    told = CopyProgress("i", 1, (moving,), seconds=3.0, eta_s=9.0)
    assert completed(told, [record]).tables == (moving,)
    later = replace(record, published_ranges=2, published_rows=30)
    assert completed(told, [later]).rows == 30
    last = replace(record, published_ranges=4, published_rows=60)
    whole = completed(told, [last])
    assert (whole.finished, whole.eta_s, whole.rows_per_s) == (True, 0.0, 20.0)


def test_without_a_terminal_one_line_every_ten_seconds_tells_of_tables_at_work() -> None:
    clock = Clock()
    tally = CopyTally([table(1, 4, MB), table(2, 1, 0)], None, clock=clock)
    lines = Lines("shop", clock)
    tally.start(1, 0)
    with capture_logs() as logs:
        for _ in range(45):
            clock.now_s += 0.5
            tally.move_range(1, 0, 10, 1000)
            lines(tally.look())
        lines(tally.look(finished=True))
    assert len(logs) == 2
    assert logs[0]["at_work"] == ["public.t1 0/4"]
    assert (logs[0]["rows"], logs[0]["tables"], logs[0]["ranges"]) == (10, "0/2", "0/5")
    assert "estimated_rows" not in logs[0]


def test_on_a_terminal_what_the_copy_came_to_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            """Say yes."""
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "160")
    clock = Clock()
    tally = CopyTally([table(number, 1, MB) for number in range(20)], None, clock=clock)
    with shown("shop", color=False) as update:
        for number in range(20):
            tally.start(number, 0)
            update(tally.look())
            clock.now_s += 1
            tally.finish_range(number, 0, 100, MB)
        update(tally.look(finished=True))
    left = [Text.from_ansi(line).plain for line in terminal.getvalue().splitlines()[-15:]]
    assert left[0].split() == ["table", "copied", "ranges", "rows", "bytes", "rows/s", "time"]
    assert left[1].split()[2:] == ["1/1", "100", "1.0", "MB", "100", "1", "s"]
    assert left[-2].strip() == "8 more"
    assert left[-1].strip() == (
        "copied  20 of 20 tables  2,000 rows  20.0 MB  100 rows/s, 1.0 MB/s  20 s"
    )


def test_statistics_are_scaled_and_their_absence_is_no_zero() -> None:
    assert estimate_rows(200, 1000, 100) == 2000
    assert estimate_rows(200, -1, 0) is None
    assert estimate_rows(200, 0, 0) is None
    assert estimate_rows(0, 0, 100) == 0
    assert estimate_rows(0, 50, 0) == 50


def test_a_rate_needs_time_and_forgets_what_is_long_ago() -> None:
    speed = Speed(0.0, 0)
    assert speed.per_s(1.0, 100) is None
    for second in range(1, 101):
        speed.note(second, 10 * second if second <= 50 else 500 + 20 * (second - 50))
    (rate,) = speed.per_s(100.0, 1500) or (0.0,)
    assert rate == 20


def test_durations_read_as_people_say_them() -> None:
    assert [duration(s) for s in (None, 0, 59.4, 60, 3725, 200000)] == [
        *("?", "0 s", "59 s", "1 min 00 s", "1 h 02 min", "2 d 7 h"),
    ]
