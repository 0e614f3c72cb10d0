"""What the record tells of a group's tables, and whether that is all yet.

Upstream: the group's record. Downstream: `run`, which waits for it before it takes the sink over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo.broker.records import TableState

if TYPE_CHECKING:
    from pgflo.broker.records import TypeRecord
    from pgflo.worker.group_view import View

COPYING_MODES = ("copy", "copy-and-stream")


def is_copied(view: View) -> bool:
    """Whether the group's rows are copied before changes are applied."""
    return view.group.mode in COPYING_MODES


def is_described(view: View) -> bool:
    """Whether the record tells everything that preparing the destination needs."""
    if len(view.tables) < len(view.group.tables):
        return False
    return not is_copied(view) or all(
        table.snapshot_lsn or table.state is TableState.READY for table in view.tables.values()
    )


def basis(view: View) -> tuple[str, int, dict[int, tuple[int, list[TypeRecord]]]]:
    """Tell what the sink is made ready for: incarnation, layout, snapshots and types of tables."""
    tables = {oid: (table.snapshot_lsn, table.types) for oid, table in view.tables.items()}
    return view.group.incarnation, view.group.layout, tables


def younger_snapshots(view: View) -> dict[int, int]:
    """Give the consistent points of copies that are younger than the change stream's start."""
    start_lsn = view.group.start_lsn
    return {
        oid: table.snapshot_lsn
        for oid, table in view.tables.items()
        if table.snapshot_lsn > start_lsn
    }
