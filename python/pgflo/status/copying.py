"""How far a group's copy is, put together from its record.

Upstream: `gather`. Downstream: the tables' records, and what the replicator told last.
Invariant: what was told counts only while the replicator that told it lives: ranges that it had
under way are copied again, and nothing moves at its rate any more.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pgflo.broker.copy_progress import CopyProgress, completed
from pgflo.broker.lease import is_held
from pgflo.broker.records import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgflo.broker.record import GroupRecord, Record, TableRecord

STALE_S = 60.0
"""What was told so long ago is no news, as far as the clocks of two hosts agree."""


async def look(
    record: Record, group: GroupRecord, tables: Iterable[TableRecord]
) -> CopyProgress | None:
    """Give the state of the copy; None for a group without one."""
    copied = [table for table in tables if table.ranges]
    if not copied:
        return None
    told = await record.copying()
    if told is None or told.incarnation != group.incarnation:
        told = CopyProgress(group.incarnation, group.copy_runs, ())
    is_news = (
        group.phase is Phase.COPYING
        and told.run == group.copy_runs
        and abs(time.time() - told.told_at) < STALE_S
        and await is_held(record, "replicator")
    )
    if not is_news:
        told = replace(told, tables=(), rows_per_s=None, bytes_per_s=None, eta_s=None, queued=())
    return completed(told, copied)
