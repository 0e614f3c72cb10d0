"""`pgflo status`.

Upstream: `app`. Downstream: `pgflo.status`, which reads and draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgflo.cli import parse
from pgflo.config import options as o
from pgflo.errors import USAGE, PgfloError

if TYPE_CHECKING:
    from pgflo.config.settings import NatsSettings

WATCH_S = 1.0


@parse.command(
    "status",
    {
        "Group": (o.GROUP,),
        "Output": (o.WATCH, o.JSON, o.PROMETHEUS),
        "Source": o.SOURCE_SERVER,
        "Broker": o.NATS_SERVER,
    },
    required=(o.GROUP,),
)
def command(values: parse.Values) -> None:
    """Show where a group is: phase, positions, lag, copy progress, sinks.

    With the source named (--source or --host …) also its slot, and lag from the end of its WAL.
    """
    from pgflo.cli import broker, runtime
    from pgflo.cli import values as read

    if values.get(o.PROMETHEUS) and (values.get(o.JSON) or values.get(o.WATCH)):
        raise PgfloError(USAGE, "--prometheus goes neither with --json nor with --watch")
    group = values.get(o.GROUP)
    nats = broker.locate(read.nats(values), read.state_dir(values), group)
    named = any(values.is_set(option) for option in (o.SOURCE, o.HOST, o.DBNAME))
    conninfo = read.source_conninfo(values).get_secret_value() if named else None
    runtime.run_to_end(_show(values, nats, group, conninfo))


async def _show(values: parse.Values, nats: NatsSettings, group: str, conninfo: str | None) -> None:
    import asyncio

    from rich.console import Console
    from rich.live import Live

    from pgflo.status import metrics, show
    from pgflo.status.gather import gather
    from pgflo.status.record import opened

    as_json, watch = values.get(o.JSON), values.get(o.WATCH)
    console = Console(no_color=bool(values.get(o.NO_COLOR)) or None, highlight=False)
    async with opened(nats, group) as (broker, record):
        snapshot = await gather(broker, record, conninfo)
        if values.get(o.PROMETHEUS):
            click.echo(metrics.to_prometheus(snapshot), nl=False)
            return
        if as_json:
            click.echo(show.to_json(snapshot))
        elif not watch:
            console.print(show.draw(snapshot))
        if not watch:
            return
        with Live(show.draw(snapshot), console=console, auto_refresh=False, screen=False) as live:
            while True:
                await asyncio.sleep(WATCH_S)
                snapshot = await gather(broker, record, conninfo)
                if as_json:
                    click.echo(show.to_json(snapshot))
                else:
                    live.update(show.draw(snapshot), refresh=True)
