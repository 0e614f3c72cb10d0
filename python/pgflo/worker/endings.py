"""When a worker is done: `--once`, `--until`, and the end of a copy without streaming.

Upstream: the settings, the group's record, the change stream as it is at the start. Downstream:
`dispatcher`, which stops reading there.
Invariant: an ending is an LSN. It is reached when the destination has committed every transaction
that ends at or before it; an envelope may lead beyond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo import _core
from pgflo.broker.topology import last_envelope

if TYPE_CHECKING:
    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.config.settings import WorkerSettings


async def goal_lsn(settings: WorkerSettings, broker: Broker, names: Names) -> int | None:
    """Give the LSN at which the worker is done; None if it goes on for ever.

    `--once` and `--until now` mean what is in the stream at this moment.
    """
    if settings.once or settings.until == "now":
        last = await last_envelope(broker, names.changes_stream)
        return last.header.end_lsn if last is not None else 0
    return None if settings.until is None else _core.lsn_parse(settings.until)
