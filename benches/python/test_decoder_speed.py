"""The Rust core against the slow Python oracle, on the same stream in the same run.

Not a race but a tripwire: the oracle is what a decoder in plain Python costs, and the core must
stay far away from it. Ratios of one run are all that counts on a shared machine.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from tests.golden import streams
from tests.oracle.changes import Reading, read_frames
from tests.oracle.copydata import decode_block
from tests.oracle.core_form import core_form
from tests.oracle.pgoutput import decode_body

from pgflo import _core

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")
LEAST_RATIO = 20
ROUNDS = 7
STREAM = "pgbench"
INCARNATION = bytes(16)
FIRST_LSN = 1


class Benchmark(Protocol):
    """What we use of pytest-benchmark's fixture, which has no types."""

    extra_info: dict[str, object]

    def pedantic(
        self,
        target: Callable[..., Result],
        args: tuple[object, ...] = (),
        *,
        rounds: int,
        iterations: int,
    ) -> Result:
        """Time `rounds` times `iterations` calls; return the last result."""


def assemble_with_core() -> _core.Assembler:
    """Do with the core what `assemble_with_oracle` does."""
    assembler = _core.Assembler(INCARNATION, (FIRST_LSN, 0), FIRST_LSN)
    assembler.feed(streams.block(STREAM))
    assembler.flush()
    return assembler


def assemble_with_oracle() -> Reading:
    """Read the stream slowly."""
    return read_frames(decode_block(streams.block(STREAM)), (FIRST_LSN, 0), FIRST_LSN)


def median_ratio(slow: Callable[[], object], fast: Callable[[], object]) -> float:
    """Time both in turn, so that a busy machine slows both; return how much faster `fast` is."""
    ratios = []
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        slow()
        between_s = time.perf_counter()
        for _ in range(LEAST_RATIO):
            fast()
        ratios.append(LEAST_RATIO * (between_s - started_s) / (time.perf_counter() - between_s))
    return statistics.median(ratios)


def test_the_core_assembles_twenty_times_as_fast_as_the_oracle(
    benchmark: Benchmark,
) -> None:
    """Frames to positioned changes: 200 times as fast on the design machine."""
    assembler = benchmark.pedantic(assemble_with_core, rounds=ROUNDS, iterations=20)
    assert assembler.changes == len(assemble_with_oracle().changes)
    ratio = median_ratio(assemble_with_oracle, assemble_with_core)
    benchmark.extra_info["times faster than the oracle"] = round(ratio)
    assert ratio >= LEAST_RATIO


def test_the_core_shows_messages_faster_than_the_oracle_decodes_them(
    benchmark: Benchmark,
) -> None:
    """Messages to tuples, where most of the time goes into Python objects on both sides."""
    body = streams.body(STREAM)
    shown = benchmark.pedantic(_core.decode_messages, (body,), rounds=ROUNDS, iterations=20)
    assert shown == [core_form(message) for message in decode_body(body)]
    ratio = median_ratio(lambda: decode_body(body), lambda: _core.decode_messages(body))
    benchmark.extra_info["times faster than the oracle"] = round(ratio)
    assert ratio >= LEAST_RATIO / 4
