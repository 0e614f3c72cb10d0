"""What comes between the last range of a copy and the first change: indexes and statistics.

Upstream: `care`, once in each life of the worker. Downstream: the plan of the schema, the
destination's statistics.
Invariant: nothing here is done twice, and what is left out comes later: foreign keys wait until the
changes up to the youngest copy are applied (`pause_lsn`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg

from pgflo.schema.build import AfterRows, tell_unfinished
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.analyze import analyze
from pgflo.sinks.postgres.connection import failure
from pgflo.sinks.postgres.tables import sink_tables
from pgflo.worker.tables import is_copied, younger_snapshots

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgflo.config.settings import WorkerSettings
    from pgflo.rules.bind import Bound
    from pgflo.sinks.postgres.connection import Destination
    from pgflo.worker.group_view import View
    from pgflo.worker.report import Report


class Completion:
    """The completion of one life's copy."""

    def __init__(
        self,
        settings: WorkerSettings,
        to: Destination,
        view: View,
        bound: Bound | None,
        report: Report,
    ) -> None:
        self._settings = settings
        self._to = to
        self._view = view
        self._bound = bound
        self._report = report
        self.pause_lsn: int | None = None
        """Behind this the destination is a state of the source: then the rest can be made."""

    async def run(self, loaded: Collection[int]) -> None:
        """Make the schema, and analyse what was loaded.

        `loaded`: source oids of tables that got rows in this life.
        """
        was_complete = await asyncio.to_thread(self._is_streaming)
        await self.make_schema()
        tables = [
            table
            for table in self._view.tables.values()
            if is_copied(self._view) and (not was_complete or table.oid in loaded)
        ]
        if tables:
            self._report.phase("analyzing")
            tables.sort(key=lambda table: -table.bytes)
            wanted = sink_tables(tables, self._bound, copied=True)
            await analyze(self._to, wanted, self._settings.copy_writers)

    async def make_schema(self) -> None:
        """Make what is left of the schema, as far as that can be now."""
        if self._settings.schema_source is None:
            await tell_unfinished(self._to)
            return
        latest_lsn = max(younger_snapshots(self._view).values(), default=0)
        standing_lsn = await asyncio.to_thread(self._standing_lsn) if latest_lsn else 0
        after_rows = AfterRows(self._to, self._settings.copy_writers, self._report.parts)
        # Without changes to come there is nothing to wait for.
        is_last_chance = self._view.group.mode == "copy"
        held_back = await after_rows.run(
            is_one_state=is_last_chance or standing_lsn >= latest_lsn, may_differ=latest_lsn > 0
        )
        self.pause_lsn = latest_lsn if held_back else None

    def _is_streaming(self) -> bool:
        with self._to.connect("worker") as conn:
            try:
                return progress.is_streaming(conn, self._to)
            except psycopg.Error as error:
                raise failure(error, "cannot read how far the copy is") from None

    def _standing_lsn(self) -> int:
        with self._to.connect("worker") as conn:
            try:
                return progress.standing_lsn(conn, self._to)
            except psycopg.Error as error:
                raise failure(error, "cannot read how far the changes are") from None
