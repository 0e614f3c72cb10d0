"""Tells how far the copy is: the watcher, the log, and whoever asks the group's record.

Upstream: the copy's coordinator. Downstream: `progress` counts; `pgflo status` reads key `copying`.
Invariant: these are numbers for people. A broker that does not take them is asked again a second
later, and nothing depends on it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import structlog

from pgflo.broker.copy_progress import per_second
from pgflo.errors import PgfloError
from pgflo.replicator.progress import CopyTally

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgflo.broker.copy_progress import CopyProgress
    from pgflo.broker.records import TableRecord
    from pgflo.replicator.group import Group

log = structlog.get_logger("pgflo.replicator")

PATIENCE_S = 2.0
"""For one question or word: the copy waits for the first and for the last."""
TELL_S = 1.0
"""Between two words to the group's record."""


class CopyReport:
    """What others hear of one run of the copy: `begin`, `run` while it lasts, then `finish`."""

    def __init__(self, group: Group, watcher: Callable[[CopyProgress], None] | None) -> None:
        self.tally = CopyTally(
            group.tables.values(),
            watcher,
            incarnation=group.value.incarnation,
            run=group.value.copy_runs,
        )
        self.queued: tuple[str, ...] = ()
        """Sessions at the source that wait for the end of the copy."""
        self._record = group.record

    async def begin(self) -> None:
        """Learn how long former runs took."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                self.tally.add_former(await self._record.copying())
        except (PgfloError, TimeoutError) as error:
            log.warning("cannot read how long the copy took by now", cause=str(error))

    async def run(self) -> NoReturn:
        """Tell again and again."""
        while True:
            await asyncio.sleep(TELL_S)
            self.tally.tell_if_due()
            await self._put(self.tally.look())

    async def finish(self) -> None:
        """Tell that every range is published."""
        self.queued = ()
        whole = self.tally.look(finished=True)
        await self._put(whole)
        log.info(
            "copy published",
            tables=len(whole.tables),
            ranges=whole.ranges,
            rows=whole.rows,
            bytes=whole.bytes,
            seconds=round(whole.seconds, 1),
            rows_per_s=_whole(whole.rows_per_s),
        )
        self.tally.tell_if_due(finished=True)

    async def _put(self, progress: CopyProgress) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                told = replace(progress.under_way(), queued=self.queued)
                await self._record.put_copying(told)
        except (PgfloError, TimeoutError) as error:
            log.debug("cannot tell how far the copy is", cause=str(error))


def table_published(table: TableRecord) -> None:
    """Log that every range of a table is published."""
    log.info(
        "table published",
        table=f"{table.schema}.{table.name}",
        rows=table.published_rows,
        bytes=table.published_bytes,
        seconds=round(table.copy_s, 1),
        rows_per_s=_whole(per_second(table.published_rows, table.copy_s)),
    )


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)
