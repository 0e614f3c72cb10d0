"""Tables of a group's record, made without a server.

Upstream: unit tests of the copy. Downstream: `pgflo.broker.records`. Invariant: nothing of such a
table is copied unless the test says so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pgflo.broker.records import TableRecord, TableState


def table(oid: int, ranges: int, size: int, **fields: Any) -> TableRecord:  # noqa: ANN401
    """Describe a table of `ranges` ranges and `size` bytes; `fields` are set as they are."""
    record = TableRecord(
        oid=oid,
        schema="public",
        name=f"t{oid}",
        root=None,
        columns=[],
        key=[],
        identity="d",
        state=TableState.WAITING,
        ranges=ranges,
        range_blocks=10,
        bytes=size,
    )
    return replace(record, **fields)
