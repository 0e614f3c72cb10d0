"""Waiting until the sinks of a group have applied everything that was published.

Upstream: `pgflo run`, and `pgflo replicate` with the group's own broker, when the replicator has
ended by itself. Downstream: the group's record.
Invariant: only what the sinks have committed counts, and only of the present incarnation.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from pgflo.status.record import opened

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgflo.broker.record import Record
    from pgflo.config.settings import NatsSettings

log = structlog.get_logger("pgflo.cli")

LOOK_S = 0.2
GOODBYE_S = 5.0
"""How long a sink that has everything may take to sign off."""


async def all_applied(
    nats: NatsSettings, group: str, sinks: Collection[str], stop: asyncio.Event
) -> None:
    """Return when every sink named (none named: every registered one, at least one) has all.

    Returns early when `stop` is set. Raises what connecting raises.
    """
    async with opened(nats, group) as (_, record):
        while not stop.is_set():
            if await _have_all(record, sinks):
                return
            await _pause(stop)


async def all_signed_off(nats: NatsSettings, group: str, stop: asyncio.Event) -> None:
    """Return when no worker of the group holds its lease, or after some seconds."""
    async with opened(nats, group) as (_, record):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                while not stop.is_set() and await _leases(record):
                    await _pause(stop)


async def _have_all(record: Record, wanted: Collection[str]) -> bool:
    found = await record.group()
    if found is None or found[0].final_lsn is None:
        return False
    group, final_lsn = found[0], found[0].final_lsn
    sinks = await record.sinks()
    names = wanted or sinks.keys()
    at_end = bool(names) and all(
        name in sinks
        and sinks[name].incarnation == group.incarnation
        and sinks[name].end_lsn >= final_lsn
        for name in names
    )
    return at_end and await _copied_all(record, group.tables, names)


async def _copied_all(record: Record, oids: list[int], names: Collection[str]) -> bool:
    """Whether each sink has every range: at a group's start the LSN alone says nothing of those."""
    every = await record.tables()
    tables = [every[oid] for oid in oids if oid in every and every[oid].ranges]
    for name in names:
        copied = await record.copied(name)
        for table in tables:
            if table.oid not in copied or not copied[table.oid].has_all(table):
                return False
    return True


async def _leases(record: Record) -> list[str]:
    names = await record.sinks()
    return [name for name in names if await record.read(f"lease.sink.{name}") is not None]


async def _pause(stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), LOOK_S)
