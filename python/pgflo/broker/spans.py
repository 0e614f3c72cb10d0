"""Sets of range numbers, written as spans: a table of a terabyte has sixteen thousand ranges.

Upstream: the copy's ledger. Downstream: the table's record.
Invariant: spans are half-open, sorted, not empty, and neither overlap nor touch.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Span = tuple[int, int]
"""First number, and the one behind the last."""


def numbers(spans: Iterable[Span]) -> set[int]:
    """Give all numbers."""
    return {number for first, behind in spans for number in range(first, behind)}


def with_number(spans: list[Span], number: int) -> list[Span]:
    """Add a number; one that is there changes nothing."""
    place = bisect_right(spans, (number, number + 1))
    before, after = spans[:place], spans[place:]
    first, behind = number, number + 1
    if before and before[-1][1] >= number:
        if before[-1][1] > number:
            return spans
        first = before.pop()[0]
    if after and after[0][0] <= behind:
        if after[0][0] < behind:
            return spans
        behind = after.pop(0)[1]
    return [*before, (first, behind), *after]
