"""The copy while it runs: a live table on a terminal, a line every ten seconds elsewhere.

Upstream: `CopyProgress` from the replicator, a few times a second. Downstream: stderr.
Invariant: nothing goes to stdout, and log lines appear above the live table, not inside it. What
the copy came to is left on the terminal; elsewhere the replicator's own last line tells it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import structlog

from pgflo.status.show import duration, of_about, rate, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from pgflo.broker.copy_progress import CopyProgress, TableProgress

log = structlog.get_logger("pgflo.cli")

LINE_EVERY_S = 10.0
SHOWN_TABLES = 12
"""Tables that a terminal shows, those at work first."""
NAMED_TABLES = 8
"""Tables at work that a line names."""
BAR_CELLS = 16


@contextlib.contextmanager
def shown(group: str, *, color: bool) -> Iterator[Callable[[CopyProgress], None]]:
    """Give the callback that shows progress as long as the context lasts."""
    if not sys.stderr.isatty():
        yield Lines(group)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False, no_color=not color or None)
    live = Live(console=console, auto_refresh=False, transient=True)

    def update(progress: CopyProgress) -> None:
        if progress.finished:
            live.stop()
            console.print(draw(progress))
            return
        live.start()
        live.update(draw(progress), refresh=True)

    try:
        yield update
    finally:
        live.stop()


class Lines:
    """Progress as log lines."""

    def __init__(self, group: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._group = group
        self._clock = clock
        self._next_s = clock() + LINE_EVERY_S

    def __call__(self, progress: CopyProgress) -> None:
        """Log, if ten seconds have passed since the last line."""
        if progress.finished or self._clock() < self._next_s:
            return
        self._next_s = self._clock() + LINE_EVERY_S
        log.info(
            "copying",
            group=self._group,
            percent=int(100 * progress.fraction),
            tables=f"{progress.tables_done}/{len(progress.tables)}",
            ranges=f"{progress.ranges_done}/{progress.ranges}",
            rows=progress.rows,
            bytes=progress.bytes,
            **_known(
                estimated_rows=progress.estimated_rows,
                rows_per_s=progress.rows_per_s,
                eta_s=progress.eta_s,
            ),
            at_work=[
                f"{table.table} {table.ranges_done}/{table.ranges}"
                for table in progress.tables
                if table.ranges_running
            ][:NAMED_TABLES],
        )


def draw(progress: CopyProgress) -> RenderableType:
    """Draw the tables at work, then those that wait, then those that are done."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("table", no_wrap=True)
    table.add_column("copied", no_wrap=True)
    for title in ("ranges", "rows", "bytes", "rows/s", "time" if progress.finished else "left"):
        table.add_column(title, justify="right", no_wrap=True)
    ordered = sorted(progress.tables, key=_rank)
    for one in ordered[:SHOWN_TABLES]:
        table.add_row(
            one.table,
            _bar(one),
            f"{one.ranges_done}/{one.ranges}",
            of_about(one.rows, one.estimated_rows),
            size(one.bytes),
            rate(one.rows_per_s),
            _time(one, finished=progress.finished),
        )
    rest = len(ordered) - SHOWN_TABLES
    if rest > 0:
        table.add_row(f"{rest} more")
    return Group(table, Text(_sum(progress), style="bold"))


def _sum(progress: CopyProgress) -> str:
    begin = "copied" if progress.finished else f"{int(100 * progress.fraction)} %"
    words = [
        f"{begin}  {progress.tables_done} of {len(progress.tables)} tables",
        f"{of_about(progress.rows, progress.estimated_rows)} rows",
        size(progress.bytes),
    ]
    if progress.rows_per_s is not None:
        words.append(f"{rate(progress.rows_per_s)} rows/s, {size(progress.bytes_per_s)}/s")
    words.append(duration(progress.seconds))
    if not progress.finished and progress.eta_s is not None:
        words.append(f"{duration(progress.eta_s)} left")
    return "  ".join(words)


def _time(table: TableProgress, *, finished: bool) -> str:
    if finished:
        return duration(table.seconds)
    return "" if table.is_done or table.eta_s is None else duration(table.eta_s)


def _bar(table: TableProgress) -> str:
    filled = int(BAR_CELLS * table.fraction)
    return "━" * filled + "╌" * (BAR_CELLS - filled)


def _rank(table: TableProgress) -> tuple[int, int]:
    stage = 2 if table.is_done else 0 if table.is_begun else 1
    return stage, -table.source_bytes


def _known(**numbers: float | None) -> dict[str, int]:
    """Give what is known, in whole numbers."""
    return {name: round(number) for name, number in numbers.items() if number is not None}
