"""Net effects leave the rows that replay leaves, whatever happened and however it is cut.

PostgreSQL is the judge, three times: the source, a destination that takes epochs by the short way
wherever it can, one that never does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import note
from tests.fix_agreement import rows
from tests.fix_property import within_budget
from tests.property.row_histories import differing, histories

from pgflo.errors import PgfloError
from pgflo.sinks.postgres.transaction import Applied

if TYPE_CHECKING:
    from tests.fix_agreement import Agreement
    from tests.property.row_histories import History, Op

LONG_EXAMPLES = 2000

FURTHER_UNIQUE_KEYS = frozenset({"second_u_key", "by_index_pkey"})
"""Unique keys that are not the one by which rows are told apart."""


@within_budget(history=histories(), long_examples=LONG_EXAMPLES)
def test_both_ways_lead_to_the_rows_of_the_source(agreement: Agreement, history: History) -> None:
    note(repr(history))
    epochs = agreement.happen(history)
    expected = rows(agreement.source)
    fast, slow = (side.apply(epochs) for side in (agreement.fast, agreement.slow))
    assert not isinstance(fast, PgfloError), fast
    assert not isinstance(slow, PgfloError), slow
    assert rows(agreement.slow.sink.target) == expected
    assert rows(agreement.fast.sink.target) == expected
    assert (fast.careful_steps, slow.careful_steps) == (0, 0)
    assert (fast.changes, slow.grouped_changes) == (slow.changes, 0)
    if history.is_grouped:
        assert fast.grouped_changes == fast.changes


@within_budget(drawn=differing(), long_examples=LONG_EXAMPLES)
def test_a_destination_that_differs_ends_the_same_either_way(
    agreement: Agreement, drawn: tuple[History, tuple[Op, ...]]
) -> None:
    history, differences = drawn
    note(f"{differences} {history}")
    epochs = agreement.happen(history, differences)
    fast, slow = (side.apply(epochs) for side in (agreement.fast, agreement.slow))
    if isinstance(slow, PgfloError) and slow.context.get("constraint") in FURTHER_UNIQUE_KEYS:
        # A row of the destination alone has a value that one of the source's had for a moment: net
        # effects never write it. They go on, or stop at the same key.
        assert isinstance(fast, Applied) or fast.context["constraint"] in FURTHER_UNIQUE_KEYS
        return
    if isinstance(fast, PgfloError) or isinstance(slow, PgfloError):
        assert isinstance(fast, PgfloError), (fast, slow)
        assert isinstance(slow, PgfloError), (fast, slow)
        assert fast.kind is slow.kind
        return
    assert rows(agreement.fast.sink.target) == rows(agreement.slow.sink.target)
    # What replay mended was left to it.
    assert (fast.careful_steps > 0) == (slow.careful_steps > 0)
