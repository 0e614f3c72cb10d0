"""The copy's queue hands every range out until it is published, and no range twice at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.table_records import table

from pgflo.broker.records import ATTEMPTS_PER_RUN, TableState, run_of
from pgflo.broker.spans import numbers, with_number
from pgflo.replicator.copy_process import RangeReport, RangeTask
from pgflo.replicator.range_queue import RangeQueue

RUN = 3
FIRST = RUN * ATTEMPTS_PER_RUN + 1
"""Number of a range's first attempt in that run."""


@given(
    ranges=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    max_per_table=st.integers(1, 6),
    lanes=st.integers(1, 10),
    data=st.data(),
)
def test_whatever_fails_every_range_is_published_once(
    ranges: list[int], max_per_table: int, lanes: int, data: st.DataObject
) -> None:
    queue = RangeQueue(
        (table(oid, count, 100 * count) for oid, count in enumerate(ranges)),
        max_per_table=max_per_table,
        run=RUN,
        range_bytes=100,
    )
    running: list[RangeTask] = []
    published: list[tuple[int, int]] = []
    attempts: dict[tuple[int, int], int] = {}
    while not queue.is_done:
        candidate = queue.next_table() if len(running) < lanes else None
        if candidate is not None:
            task = queue.take(candidate)
            key = (task.relation_oid, task.range_no)
            assert attempts.get(key, FIRST - 1) + 1 == task.attempt, "an attempt's number twice"
            attempts[key] = task.attempt
            assert task not in running
            running.append(task)
            assert queue.tables[task.relation_oid].running <= max_per_table
            assert queue.running == len(running)
            continue
        task = running.pop(data.draw(st.integers(0, len(running) - 1)))
        if data.draw(st.integers(0, 3)) == 0 and task.attempt < FIRST + 4:
            queue.give_back(task, source_failed=False)
        else:
            queue.finish(task, RangeReport("done", rows=1, bytes=10), lane=0)
            published.append((task.relation_oid, task.range_no))
        if data.draw(st.booleans()):
            queue.publish(queue.unproved())
    queue.publish(queue.unproved())
    assert sorted(published) == [(o, n) for o, count in enumerate(ranges) for n in range(count)]
    assert queue.rows == sum(ranges)
    records = [t.record for t in queue.tables.values()]
    assert {record.state for record in records} == {TableState.PUBLISHED}
    assert all(record.published == [(0, record.ranges)] for record in records)
    assert sum(record.published_rows for record in records) == queue.rows
    assert not any(record.running_ranges for record in records)


def test_the_largest_table_goes_first_until_it_has_its_share_of_processes() -> None:
    queue = RangeQueue(
        [table(1, 9, 10), table(2, 9, 1000), table(3, 1, 500)],
        max_per_table=2,
        run=1,
        range_bytes=10,
    )
    taken = []
    while (candidate := queue.next_table()) is not None:
        taken.append(queue.take(candidate).relation_oid)
    assert taken == [2, 2, 3, 1, 1]
    assert queue.useful_lanes == 5


def test_failures_of_the_source_are_counted_per_range() -> None:
    queue = RangeQueue([table(1, 2, 10)], max_per_table=1, run=1, range_bytes=10)
    told = []
    for source_failed in (True, False, True):
        candidate = queue.next_table()
        assert candidate is not None
        told.append(queue.give_back(queue.take(candidate), source_failed=source_failed))
    assert told == [1, 1, 2]


def test_another_run_hands_out_what_is_left_and_shares_no_attempt() -> None:
    first = RangeQueue([table(1, 5, 10)], max_per_table=5, run=1, range_bytes=10)
    left = first.tables[1]
    tasks = [first.take(left) for _ in range(5)]
    for number in (3, 1):
        first.finish(tasks[number], RangeReport("done", rows=7, bytes=70, seq=number), number)
    first.publish(first.unproved())
    # Stored and not proved is not published.
    first.finish(tasks[0], RangeReport("done", rows=7, bytes=70, seq=9), 3)
    assert (left.record.published, left.record.published_rows) == ([(1, 2), (3, 4)], 14)
    # What a lane has stored is told before it is proved: a loss is noticed in any case.
    assert {lane: (t.seq, t.range_no) for lane, t in left.record.tails.items()} == {
        1: (1, 1),
        3: (9, 0),
    }
    second = RangeQueue([left.record], max_per_table=5, run=2, range_bytes=10)
    again = [second.take(second.tables[1]) for _ in range(3)]
    assert [task.range_no for task in again] == [0, 2, 4]
    assert second.next_table() is None
    assert {run_of(task.attempt) for task in again} == {2}
    for task in again:
        second.finish(task, RangeReport("done", rows=7, bytes=70), lane=0)
    assert second.is_done
    second.publish(second.unproved())
    assert second.tables[1].record.published_rows == 35


def test_a_lane_is_never_further_ahead_of_the_records_than_one_range() -> None:
    # GIVEN a table of three ranges, and small ones, three of which are as much as a range
    small = [table(oid, 1, 30) for oid in range(2, 6)]
    queue = RangeQueue([table(1, 3, 300), *small], max_per_table=1, run=1, range_bytes=100)

    def copy(lane: int) -> bool:
        candidate = queue.next_table()
        assert candidate is not None
        if not queue.may_begin(lane, candidate):
            return False
        queue.finish(queue.take(candidate), RangeReport("done"), lane)
        return True

    # THEN the next range waits for the record of the first, in the same lane
    assert [copy(0), copy(0), copy(1), copy(1)] == [True, False, True, False]
    queue.note_written(1)
    assert [copy(1), copy(0), queue.unwritten] == [False, True, 2]
    queue.note_written(2)
    # and small ones are together no more than a range
    assert [copy(0), copy(0), copy(0), copy(0)] == [True, True, True, False]


@given(st.lists(st.integers(0, 30), max_size=60))
def test_spans_hold_what_was_put_in(wanted: list[int]) -> None:
    spans: list[tuple[int, int]] = []
    for number in wanted:
        spans = with_number(spans, number)
    assert numbers(spans) == set(wanted)
    flat = [edge for span in spans for edge in span]
    assert flat == sorted(set(flat)), "spans that touch or overlap"
