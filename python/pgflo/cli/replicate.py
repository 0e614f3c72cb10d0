"""`pgflo replicate`, alias `replicator`.

Upstream: `app`. Downstream: `pgflo.replicator.run`, and the group's own broker when none is named;
with `--to` `supervised`, whose children are this command without it, and workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgflo.cli import parse
from pgflo.cli.destinations import CARE, refuse_lonely_settings
from pgflo.config import options as o
from pgflo.errors import USAGE, PgfloError

if TYPE_CHECKING:
    import asyncio

    from pgflo.config.settings import NatsSettings, ReplicateSettings


@parse.command(
    "replicate",
    {
        "Group": (o.GROUP,),
        "Mode": (*o.MODES, *o.ENDING, o.RESTART, o.YES),
        "Source": (*o.SOURCE_SERVER, *o.TABLE_CHOICE, o.INSERT_ONLY_TABLES),
        "Copy": o.COPYING,
        "Broker": (*o.NATS_SERVER, *o.NATS_STORE),
        "Safety": o.SAFETY,
        "Retries": o.RETRIES,
        "Sinks": (o.TO, *CARE),
    },
    required=(o.GROUP,),
    log_json_elsewhere=True,
)
def command(values: parse.Values) -> None:
    """Copy tables and stream their changes from a PostgreSQL database into the broker.

    Goes on where it stopped. Without --nats-url a broker is started for the group on this machine;
    `pgflo worker` of the same group finds it there. --to runs workers as well, in one process tree:
    what dies is started again, and --copy, --once and --until end it when all is applied.
    """
    if values.get(o.TO):
        _run_with_sinks(values)
        return
    refuse_lonely_settings(values)

    from pgflo.supervisor import processes

    if values.get(o.COPY) or values.get(o.COPY_AND_STREAM):
        # First of all: the two of us take long to import.
        processes.warm_up(processes.REPLICATOR_CHILDREN)

    from setproctitle import setproctitle

    from pgflo.cli import broker, runtime
    from pgflo.cli import values as read
    from pgflo.cli.progress import shown
    from pgflo.replicator.run import run as publish

    settings = read.replicate(values)
    confirm_restart(values, settings)
    setproctitle(f"pgflo replicate [{settings.group}]")

    async def service(stop: asyncio.Event) -> None:
        async with broker.provided(settings.nats, settings.state_dir, settings.group) as nats:
            with shown(settings.group, color=not values.get(o.NO_COLOR)) as progress:
                await publish(settings.model_copy(update={"nats": nats}), stop, progress)
            if settings.nats.url is None and not stop.is_set():
                # All is published, but into a broker that ends with this process.
                await serve_sinks(nats, settings.group, stop)

    runtime.run_service(service)


def _run_with_sinks(values: parse.Values) -> None:
    from setproctitle import setproctitle

    # First of all: a URL among the arguments may hold a password, and this takes their place.
    setproctitle("pgflo replicate with sinks")

    from pgflo.cli import supervised
    from pgflo.cli import values as read
    from pgflo.cli.destinations import sinks

    supervised.run(values, read.replicate(values), sinks(values), title="replicate with sinks")


async def serve_sinks(nats: NatsSettings, group: str, stop: asyncio.Event) -> None:
    """Keep the group's own broker up until every sink has applied what was published."""
    import structlog

    from pgflo.status.ending import all_applied, all_signed_off

    structlog.get_logger("pgflo.cli").info(
        "everything is published; the embedded broker stays until the sinks have applied it",
        group=group,
        start=f"pgflo worker postgres --group {group} --once …",
    )
    await all_applied(nats, group, (), stop)
    await all_signed_off(nats, group, stop)


def confirm_restart(values: parse.Values, settings: ReplicateSettings) -> None:
    """Ask before the group is forgotten. Raises USAGE when nobody is there to answer."""
    if not settings.restart or values.get(o.YES):
        return
    import sys

    if not sys.stdin.isatty():
        raise PgfloError(
            USAGE,
            f"--restart forgets group {settings.group}, and nobody is here to confirm it",
            hint="Add --yes.",
            group=settings.group,
        )
    question = (
        f"Forget group {settings.group}: its slot, publications and streams, and begin again?"
    )
    if not click.confirm(question, err=True):
        raise click.Abort
