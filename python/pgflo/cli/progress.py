"""The copy while it runs: a live table on a terminal, a line every ten seconds elsewhere.

Upstream: `CopyProgress` from the replicator, a few times a second. Downstream: stderr.
Invariant: nothing goes to stdout, and log lines appear above the live table, not inside it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import structlog

from pgflo.status.show import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from pgflo.replicator.progress import CopyProgress, TableProgress

log = structlog.get_logger("pgflo.cli")

LINE_EVERY_S = 10.0
SHOWN_TABLES = 12
"""Tables that a terminal shows, those at work first."""
BAR_CELLS = 24


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
            return
        live.start()
        live.update(draw(progress), refresh=True)

    try:
        yield update
    finally:
        live.stop()


class Lines:
    """Progress as log lines."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.next_at = time.monotonic() + LINE_EVERY_S

    def __call__(self, progress: CopyProgress) -> None:
        """Log, if ten seconds have passed since the last line."""
        if progress.finished or time.monotonic() < self.next_at:
            return
        self.next_at = time.monotonic() + LINE_EVERY_S
        log.info(
            "copying",
            group=self.group,
            tables_done=sum(_done(table) for table in progress.tables),
            tables=len(progress.tables),
            percent=_percent(progress),
            rows=sum(table.rows for table in progress.tables),
            bytes=sum(table.bytes for table in progress.tables),
        )


def draw(progress: CopyProgress) -> RenderableType:
    """Draw the tables at work, then those that wait, then those that are done."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("table", no_wrap=True)
    table.add_column("copied", no_wrap=True)
    for title in ("ranges", "rows", "bytes"):
        table.add_column(title, justify="right", no_wrap=True)
    ordered = sorted(progress.tables, key=_rank)
    for one in ordered[:SHOWN_TABLES]:
        table.add_row(
            one.table,
            _bar(one),
            f"{one.ranges_done}/{one.ranges}",
            f"{one.rows:,}",
            size(one.bytes),
        )
    rows = sum(one.rows for one in progress.tables)
    done = sum(_done(one) for one in progress.tables)
    rest = len(ordered) - SHOWN_TABLES
    now = time.monotonic()
    elapsed_s = now - min((one.started_at or now for one in ordered), default=now)
    foot = (
        f"{_percent(progress)} %  {done} of {len(ordered)} tables"
        f"{f' ({rest} not shown)' if rest > 0 else ''}  {rows:,} rows"
        f"  {rows / max(elapsed_s, 0.001):,.0f} rows/s"
    )
    return Group(table, Text(foot, style="bold"))


def _bar(table: TableProgress) -> str:
    filled = round(BAR_CELLS * table.ranges_done / max(1, table.ranges))
    return "━" * filled + "╌" * (BAR_CELLS - filled)


def _done(table: TableProgress) -> bool:
    return table.finished_at is not None


def _rank(table: TableProgress) -> tuple[int, int]:
    stage = 2 if _done(table) else 0 if table.started_at is not None else 1
    return stage, -table.heap_bytes


def _percent(progress: CopyProgress) -> int:
    """Give the share of heap bytes whose ranges are published; ranges of a table weigh the same."""
    total = sum(max(1, table.heap_bytes) for table in progress.tables)
    done = sum(
        max(1, table.heap_bytes) * table.ranges_done / max(1, table.ranges)
        for table in progress.tables
    )
    return int(100 * done / max(1, total))
