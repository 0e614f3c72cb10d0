"""Which broker a command talks to: the one named, else the group's own on this machine.

Upstream: the commands. Downstream: `pgflo.supervisor.local_broker`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from pgflo.supervisor import local_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pgflo.config.settings import NatsSettings, ReplicateSettings, WorkerSettings


def found(settings: ReplicateSettings | WorkerSettings) -> NatsSettings:
    """Give the broker's settings with its URL. Raises GROUP_UNKNOWN, BROKER_UNREACHABLE."""
    return locate(settings.nats, settings.state_dir, settings.group)


def locate(nats: NatsSettings, state_dir: Path, group: str) -> NatsSettings:
    """Give the broker's settings with its URL. Raises GROUP_UNKNOWN, BROKER_UNREACHABLE."""
    if nats.url is not None:
        return nats
    return nats.model_copy(update={"url": local_broker.find(state_dir, group)})


@contextlib.asynccontextmanager
async def provided(nats: NatsSettings, state_dir: Path, group: str) -> AsyncIterator[NatsSettings]:
    """Give the broker's settings with its URL; without one, run the group's own meanwhile."""
    if nats.url is not None:
        yield nats
        return
    own = local_broker.LocalBroker(state_dir, group)
    try:
        await own.start()
        watcher = asyncio.create_task(own.watch(), name="embedded broker")
        try:
            yield nats.model_copy(update={"url": own.url})
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    finally:
        await own.stop()
