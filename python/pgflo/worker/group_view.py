"""What the group's record says, kept up to date: the group itself and its tables.

Upstream: the replicator writes them. Downstream: `run` (incarnation), `copy_lanes` (ranges, lanes),
`endings` (final position).
Invariant: a view that is given out was read as a whole after the last change that it shows.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgflo.broker.stored import is_missing
from pgflo.errors import GROUP_UNKNOWN, PgfloError
from pgflo.supervisor.race import all_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgflo.broker.record import Record
    from pgflo.broker.records import GroupRecord, TableRecord

READ_PAUSE_S = 0.2
"""Between two readings: during a copy every published range changes a key."""


@dataclass(frozen=True, slots=True)
class View:
    """The group at one moment."""

    group: GroupRecord
    tables: dict[int, TableRecord]
    """The group's tables by source oid; some may still be missing while it is created."""


class GroupView:
    """Follows the record. `run` does the work, `wait` hands views out."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._stale = asyncio.Event()
        self._view: View | None = None
        self._read_anew = asyncio.Condition()
        self.sequences_told = asyncio.Event()
        """Set when the replicator says where the source's sequences are; its reader clears it."""

    async def run(self) -> None:
        """Follow the record. Never returns; raises GROUP_UNKNOWN once it is dropped."""
        try:
            await all_of(self._watch(), self._read())
        except PgfloError as error:
            if is_missing(error):
                name = self._record.group_name
                raise PgfloError(GROUP_UNKNOWN, f"group {name} was dropped") from None
            raise

    async def wait(self, condition: Callable[[View], bool]) -> View:
        """Give the first view for which `condition` holds, the present one included."""
        async with self._read_anew:
            while self._view is None or not condition(self._view):
                await self._read_anew.wait()
            return self._view

    async def after(self, old: View) -> View:
        """Give a view read later than `old`."""
        return await self.wait(lambda now: now is not old)

    async def _watch(self) -> None:
        async for key in self._record.watch():
            if key == "group" or key.startswith("table."):
                self._stale.set()
            elif key.startswith("sequences."):
                self.sequences_told.set()

    async def _read(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            found = await self._record.group()
            tables = await self._record.tables()
            if found is not None:
                members = set(found[0].tables)
                ours = {oid: table for oid, table in tables.items() if oid in members}
                async with self._read_anew:
                    self._view = View(found[0], ours)
                    self._read_anew.notify_all()
            await asyncio.sleep(READ_PAUSE_S)
