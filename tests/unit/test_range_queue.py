"""The copy's queue hands every range out until it is published, and no range twice at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgflo.broker.records import TableRecord, TableState
from pgflo.replicator.copy_process import RangeReport, RangeTask
from pgflo.replicator.range_queue import RangeQueue


def table(oid: int, ranges: int, size: int) -> TableRecord:
    return TableRecord(
        oid=oid,
        schema="public",
        name=f"t{oid}",
        root=None,
        columns=[],
        key=[],
        identity="d",
        state=TableState.WAITING,
        ranges=ranges,
        range_blocks=10,
        bytes=size,
    )


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
    )
    running: list[RangeTask] = []
    published: list[tuple[int, int]] = []
    attempts: dict[tuple[int, int], int] = {}
    while not queue.is_done:
        candidate = queue.next_table() if len(running) < lanes else None
        if candidate is not None:
            task = queue.take(candidate)
            key = (task.relation_oid, task.range_no)
            assert attempts.get(key, 0) + 1 == task.attempt, "an attempt's number was used again"
            attempts[key] = task.attempt
            assert task not in running
            running.append(task)
            assert queue.tables[task.relation_oid].running <= max_per_table
            assert queue.running == len(running)
            continue
        task = running.pop(data.draw(st.integers(0, len(running) - 1)))
        if data.draw(st.integers(0, 3)) == 0 and task.attempt < 5:
            queue.give_back(task, source_failed=False)
        else:
            queue.finish(task, RangeReport("done", rows=1, bytes=10))
            published.append((task.relation_oid, task.range_no))
    assert sorted(published) == [(o, n) for o, count in enumerate(ranges) for n in range(count)]
    assert queue.rows == sum(ranges)
    assert {t.record.state for t in queue.tables.values()} == {TableState.PUBLISHED}


def test_the_largest_table_goes_first_until_it_has_its_share_of_processes() -> None:
    queue = RangeQueue([table(1, 9, 10), table(2, 9, 1000), table(3, 1, 500)], max_per_table=2)
    taken = []
    while (candidate := queue.next_table()) is not None:
        taken.append(queue.take(candidate).relation_oid)
    assert taken == [2, 2, 3, 1, 1]
    assert queue.useful_lanes == 5


def test_failures_of_the_source_are_counted_per_range() -> None:
    queue = RangeQueue([table(1, 2, 10)], max_per_table=1)
    told = []
    for source_failed in (True, False, True):
        candidate = queue.next_table()
        assert candidate is not None
        told.append(queue.give_back(queue.take(candidate), source_failed=source_failed))
    assert told == [1, 1, 2]
