"""Property tests with a budget in seconds instead of a number of examples, replayable by a seed.

`@within_budget(name=strategy, …)` stands where hypothesis' `@given` would. A test draws rounds of
examples until its time is over: PGFLO_PROPERTY_SECONDS per test (2.5; with PGFLO_LONG set 60).
Rounds are seeded PGFLO_SEED, PGFLO_SEED + 1, … (1; drawn anew with PGFLO_LONG): runs repeat.
What else the test takes is a fixture of pytest, set up once for all rounds; `long_examples` are
drawn with PGFLO_LONG whatever the time.
Invariant: at least one whole round is drawn, and a failure names the seed that shows it again.
"""

from __future__ import annotations

import functools
import inspect
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

EXAMPLES_PER_ROUND = 20
LONG_EXAMPLE_S = 1.0
"""What an example may take where their number is given: for the time limit only."""

ROUND = settings(
    max_examples=EXAMPLES_PER_ROUND,
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
    *, long_examples: int = 0, **strategies: SearchStrategy[object]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on drawn arguments for BUDGET_S seconds, and once at least."""
    least = SEED + (long_examples // EXAMPLES_PER_ROUND if LONG else 1)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def run(**fixtures: object) -> None:
            started_s = time.monotonic()
            number = SEED
            while number < least or time.monotonic() - started_s < BUDGET_S:
                # Hypothesis keeps state on the function it decorates: each round gets a new one.
                @seed(number)
                @ROUND
                @given(**strategies)
                @functools.wraps(test)
                def one_round(**arguments: object) -> None:
                    test(**arguments)

                try:
                    one_round(**fixtures)
                except BaseException as failure:
                    failure.add_note(f"again: PGFLO_SEED={number}")
                    raise
                number += 1

        run.__name__ = test.__name__
        run.__doc__ = test.__doc__
        run.__module__ = test.__module__
        parameters = inspect.signature(test).parameters.values()
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # how pytest reads it
            [parameter for parameter in parameters if parameter.name not in strategies]
        )
        # Shrinking a failure takes hypothesis up to five minutes more.
        most_s = max(BUDGET_S, long_examples * LONG_EXAMPLE_S if LONG else 0)
        return pytest.mark.timeout(most_s + 330)(run)

    return decorate
