"""`pgflo drop`: everything that a group owns, removed; or one of its sinks, forgotten.

Upstream: `app`. Downstream: `pgflo.source.drop`, `pgflo.broker.topology`, and the group's own
broker.
Invariant: nothing is removed while a process of the group runs, and nothing that was not listed.
The destination's tables stay as they are.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from pgflo.cli import parse
from pgflo.config import options as o
from pgflo.errors import USAGE, PgfloError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pgflo.broker.connection import Broker
    from pgflo.config.settings import NatsSettings


@parse.command(
    "drop",
    {
        "Group": (o.GROUP, o.DROPPED_SINK, o.YES),
        "Source": o.SOURCE_SERVER,
        "Broker": o.NATS_SERVER,
    },
    required=(o.GROUP,),
)
def command(values: parse.Values) -> None:
    """Remove a group: its slot and publications at the source, its streams in the broker.

    Lists them and asks first. A slot that is left behind keeps WAL until the source's disk is full.
    The rows at the destination stay. With --sink only that sink is forgotten: nothing is kept for
    it any more, and the source is not needed.
    """
    from pgflo.cli import runtime
    from pgflo.cli import values as read

    group = values.get(o.GROUP)
    sink = values.get(o.DROPPED_SINK)
    if sink is not None:
        place = (read.nats(values), read.state_dir(values))
        runtime.run_to_end(_drop_sink(group, sink, *place, yes=bool(values.get(o.YES))))
        return
    conninfo = read.source_conninfo(values).get_secret_value()
    runtime.run_to_end(
        _drop(
            group,
            conninfo,
            read.nats(values),
            read.state_dir(values),
            yes=bool(values.get(o.YES)),
        )
    )


async def _drop(
    group: str, conninfo: str, nats: NatsSettings, state_dir: Path, *, yes: bool
) -> None:
    from pgflo.broker import topology
    from pgflo.source.drop import drop_group, list_group

    at_source = await list_group(conninfo, group)
    async with _broker(nats, state_dir, group) as broker:
        in_broker = await _list_broker(broker, group) if broker is not None else []
        found = [
            *(f"{what} at the source" for what in at_source),
            *(f"{what} in the broker" for what in in_broker),
        ]
        local = state_dir / group
        if local.is_dir() and nats.url is None:
            found.append(f"directory {local}")
        if not found:
            click.echo(f"group {group} owns nothing", err=True)
            return
        click.echo(f"group {group} owns:", err=True)
        for what in found:
            click.echo(f"  {what}", err=True)
        _confirm(f"group {group}", group, yes=yes)
        async with _nobody_at_work(broker, group):
            await drop_group(conninfo, group)
            if broker is not None:
                await topology.delete_group(broker, group)
    if nats.url is None:
        import shutil

        shutil.rmtree(local, ignore_errors=True)
    click.echo(f"removed all {len(found)}", err=True)


async def _drop_sink(
    group: str, sink: str, nats: NatsSettings, state_dir: Path, *, yes: bool
) -> None:
    from pgflo import _core
    from pgflo.broker import topology
    from pgflo.broker.lease import Lease
    from pgflo.broker.record import Record
    from pgflo.errors import GROUP_UNKNOWN

    async with _broker(nats, state_dir, group) as broker:
        record = await Record.open(broker, group, create=False) if broker is not None else None
        if broker is None or record is None:
            raise PgfloError(GROUP_UNKNOWN, f"there is no group {group}")
        known = (await record.sinks()).get(sink)
        if known is None:
            click.echo(f"group {group} has no sink {sink}", err=True)
            return
        reached = _core.lsn_format(known.end_lsn)
        click.echo(f"sink {sink} ({known.kind}) of group {group} is at {reached}", err=True)
        _confirm(f"sink {sink}", group, yes=yes)
        lease = await Lease.acquire(record, f"sink.{sink}", wait=False)
        try:
            await topology.delete_consumers(broker, group, sink)
            await record.drop_sink(sink)
        finally:
            await lease.release()
    click.echo(f"forgot sink {sink}; what it has written stays", err=True)


async def _list_broker(broker: Broker, group: str) -> list[str]:
    from pgflo.broker import topology
    from pgflo.broker.record import Record

    streams = [f"stream {name}" for name in await topology.list_streams(broker, group)]
    record = await Record.open(broker, group, create=False)
    return [*streams, *(["the group's record"] if record is not None else [])]


@contextlib.asynccontextmanager
async def _nobody_at_work(broker: Broker | None, group: str) -> AsyncIterator[None]:
    """Hold every lease of the group. Raises GROUP_RUNNING when a process has one."""
    from pgflo.broker.lease import Lease
    from pgflo.broker.record import Record

    record = await Record.open(broker, group, create=False) if broker is not None else None
    if record is None:
        yield
        return
    keys = ["replicator", *(f"sink.{name}" for name in await record.sink_names())]
    leases = [await Lease.acquire(record, key, wait=False) for key in keys]
    try:
        yield
    finally:
        for lease in leases:
            # The record is gone by now, and the lease with it.
            with contextlib.suppress(PgfloError):
                await lease.release()


@contextlib.asynccontextmanager
async def _broker(nats: NatsSettings, state_dir: Path, group: str) -> AsyncIterator[Broker | None]:
    """Give the broker of the group; its own one is started for the time being if it is down."""
    from pgflo.broker.connection import connect
    from pgflo.cli.broker import provided
    from pgflo.supervisor.local_broker import known

    if nats.url is None and not known(state_dir, group):
        click.echo(
            f"no --nats-url is given and group {group} has no broker in {state_dir}:"
            " only the source is looked at",
            err=True,
        )
        yield None
        return
    async with provided(nats, state_dir, group) as settings:
        broker = await connect(settings, name=f"pgflo drop [{group}]")
        try:
            yield broker
        finally:
            await broker.close()


def _confirm(what: str, group: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise PgfloError(
            USAGE,
            f"nobody is here to confirm that {what} is to be removed",
            hint="Add --yes.",
            group=group,
        )
    if not click.confirm(f"Remove {what}?", err=True):
        raise click.Abort
