"""Opening a group's record for reading.

Upstream: `pgflo status`, `compare`, `drop`, `run`. Downstream: `pgflo.broker.record`.
Invariant: nothing is created; a group that is not there is an answer, not a bucket.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pgflo.broker.connection import connect
from pgflo.broker.record import Record
from pgflo.errors import GROUP_UNKNOWN, PgfloError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pgflo.broker.connection import Broker
    from pgflo.config.settings import NatsSettings


@contextlib.asynccontextmanager
async def opened(nats: NatsSettings, group: str) -> AsyncIterator[tuple[Broker, Record]]:
    """Give the broker and the record of a group. Raises GROUP_UNKNOWN and what `connect` raises."""
    broker = await connect(nats, name=f"pgflo status [{group}]")
    try:
        record = await Record.open(broker, group, create=False)
        if record is None:
            raise PgfloError(
                GROUP_UNKNOWN,
                f"the broker at {broker.where} knows no group {group}",
                hint=f"Start `pgflo replicate --group {group}` first.",
                group=group,
            )
        yield broker, record
    finally:
        await broker.close()


async def incarnation(nats: NatsSettings, group: str) -> str | None:
    """Give the group's incarnation, None when there is no group."""
    broker = await connect(nats, name=f"pgflo run [{group}]")
    try:
        record = await Record.open(broker, group, create=False)
        found = await record.group() if record is not None else None
        return found[0].incarnation if found is not None else None
    finally:
        await broker.close()
