"""What a worker does for its destination besides rows: schema, statistics, sequences.

Upstream: `run`, at the stages of a worker's life. Downstream: `pgflo.schema`, `sinks.postgres`.
Invariant: only a database needs any of it; every other sink is left alone.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, NoReturn

from pgflo.rules.destinations import destined
from pgflo.sinks.postgres.sink import PostgresSink
from pgflo.worker.completion import Completion
from pgflo.worker.sequences import Sequences

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgflo.broker.record import Record
    from pgflo.config.settings import WorkerSettings
    from pgflo.rules.bind import Bound
    from pgflo.sinks.contract import Sink
    from pgflo.worker.group_view import GroupView, View
    from pgflo.worker.report import Report


class Care:
    """Nothing at all: for sinks that are no database."""

    async def before_rows(self, view: View) -> None:
        """Make what rows need, before the sink is taken over."""

    async def complete(self, view: View, report: Report, loaded: Collection[int]) -> None:
        """Do what comes between the last range and the first change, unless it was done before.

        `loaded`: source oids of tables that got rows in this life.
        """

    @property
    def pause_lsn(self) -> int | None:
        """Where changes are to be halted for `complete` of another life; None: nowhere."""
        return None

    async def begin(self, view: View) -> None:
        """Set what follows the source, before the first change."""

    async def follow(self) -> NoReturn:
        """Keep that where the source's is."""
        await asyncio.Event().wait()
        raise AssertionError

    async def finish(self, report: Report) -> None:
        """Do it for the last time."""

    async def make_rest(self) -> None:
        """Do what had to wait, as far as it can be done where the changes end."""

    async def end(self) -> None:
        """Let go of everything before another life."""


class DatabaseCare(Care):
    """That of a PostgreSQL destination."""

    def __init__(
        self,
        to: PostgresSink,
        settings: WorkerSettings,
        record: Record,
        group_view: GroupView,
        bound: Bound | None,
    ) -> None:
        self._bound = bound
        self._to = to
        self._settings = settings
        self._record = record
        self._group_view = group_view
        self._sequences: Sequences | None = None
        self._completion: Completion | None = None

    async def before_rows(self, view: View) -> None:
        """Bring the schema, if that is wanted."""
        if self._settings.schema_source is not None:
            from pgflo.schema.sync import Wanted, sync_before_rows

            # A table that only goes elsewhere is not made under its own name.
            names = {
                oid: (table.schema, table.name)
                for oid, table in view.tables.items()
                if any(to.is_own for to in destined(table, self._bound))
            }
            source = self._settings.schema_source.get_secret_value()
            incarnation = uuid.UUID(view.group.incarnation)
            await sync_before_rows(self._to, Wanted(source, incarnation, names))

    async def complete(self, view: View, report: Report, loaded: Collection[int]) -> None:
        """Make indexes and the like; analyse what was loaded."""
        self._completion = Completion(self._settings, self._to, view, self._bound, report)
        await self._completion.run(loaded)

    @property
    def pause_lsn(self) -> int | None:
        """Where foreign keys can be made that had to wait."""
        return None if self._completion is None else self._completion.pause_lsn

    async def begin(self, view: View) -> None:
        """Set sequences."""
        self._sequences = Sequences(
            self._record, self._to, view.group.incarnation, self._group_view
        )
        await self._sequences.set()

    async def follow(self) -> NoReturn:
        """Keep sequences where the source's are."""
        if self._sequences is None:
            message = "sequences were not begun"
            raise RuntimeError(message)
        await self._sequences.follow()

    async def finish(self, report: Report) -> None:
        """Set sequences for the last time."""
        if self._sequences is not None:
            await self._sequences.finish(report)

    async def make_rest(self) -> None:
        """Make foreign keys that had to wait."""
        if self._completion is not None and self.pause_lsn is not None:
            await self._completion.make_schema()

    async def end(self) -> None:
        """Close the connection for sequences."""
        if self._sequences is not None:
            await self._sequences.close()


def care_of(
    to: Sink,
    settings: WorkerSettings,
    record: Record,
    group_view: GroupView,
    bound: Bound | None,
) -> Care:
    """Give the care that a sink needs."""
    if isinstance(to, PostgresSink):
        return DatabaseCare(to, settings, record, group_view, bound)
    return Care()
