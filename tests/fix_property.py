"""Property tests with a budget in seconds instead of a number of examples, replayable by a seed.

`@within_budget(name=strategy, …)` stands where hypothesis' `@given` would. A test draws rounds of
examples until its time is over: PGFLO_PROPERTY_SECONDS per test (2.5; with PGFLO_LONG set 60).
Rounds are seeded PGFLO_SEED, PGFLO_SEED + 1, … (1; drawn anew with PGFLO_LONG): runs repeat.
Invariant: at least one whole round is drawn, and a failure names the seed that shows it again.
"""

from __future__ import annotations

import functools
import os
import random
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, seed, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

LONG = bool(os.environ.get("PGFLO_LONG"))
SEED = int(os.environ.get("PGFLO_SEED") or (random.randrange(2**31) if LONG else 1))
BUDGET_S = float(os.environ.get("PGFLO_PROPERTY_SECONDS") or (60 if LONG else 2.5))

ROUND = settings(
    max_examples=20,
    # The budget is ours, and a shared machine pauses at will.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    # A failure is replayed by its seed; a database of examples would make runs differ.
    database=None,
)


def pytest_report_header() -> str:
    """Tell seed and budget, which a repetition needs."""
    return f"property tests: PGFLO_SEED={SEED} PGFLO_PROPERTY_SECONDS={BUDGET_S:g}"


def within_budget(
    **strategies: SearchStrategy[object],
) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Run a test on drawn arguments for BUDGET_S seconds, and once at least."""

    def decorate(test: Callable[..., None]) -> Callable[[], None]:
        def run() -> None:
            started_s = time.monotonic()
            number = SEED
            while number == SEED or time.monotonic() - started_s < BUDGET_S:
                # Hypothesis keeps state on the function it decorates: each round gets a new one.
                @seed(number)
                @ROUND
                @given(**strategies)
                @functools.wraps(test)
                def one_round(**drawn: object) -> None:
                    test(**drawn)

                try:
                    one_round()
                except BaseException as failure:
                    failure.add_note(f"again: PGFLO_SEED={number}")
                    raise
                number += 1

        run.__name__ = test.__name__
        run.__doc__ = test.__doc__
        run.__module__ = test.__module__
        # Shrinking a failure takes hypothesis up to five minutes more.
        return pytest.mark.timeout(BUDGET_S + 330)(run)

    return decorate
