"""`pgflo worker KIND`: postgres, stdout, file, webhook, and the sinks of installed packages.

Upstream: `app`. Downstream: `pgflo.worker.run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo.cli import parse
from pgflo.config import options as o

if TYPE_CHECKING:
    import asyncio

    import click

COMMON = {
    "Ending": o.ENDING,
    "Broker": (*o.NATS_SERVER, *o.NATS_STORE),
    "Retries": o.RETRIES,
}


@parse.command(
    "postgres",
    {
        "Group": (o.GROUP,),
        "Destination": (*o.TARGET_SERVER, *o.APPLYING),
        "Source, for --target-sync-schema": o.SCHEMA_SOURCE,
        **COMMON,
    },
    required=(o.GROUP,),
    log_json_elsewhere=True,
    sink_kind="postgres",
)
def postgres(values: parse.Values) -> None:
    """Apply a group's copy and changes to a PostgreSQL database.

    Needs access to the source only for --target-sync-schema. Without --nats-url the broker is the
    one that `pgflo replicate` of the same group started on this machine.
    """
    _work(values, "postgres")


@parse.command(
    "stdout",
    {"Group": (o.GROUP,), "Output": (o.PRETTY, *o.EPOCHS), **COMMON},
    required=(o.GROUP,),
    log_json_elsewhere=True,
    sink_kind="stdout",
)
def stdout(values: parse.Values) -> None:
    """Print a group's rows and changes as JSON lines; nothing else goes to stdout.

    Goes on behind what a former run has printed. When the reader goes away it ends with exit 0.
    """
    _work(values, "stdout")


@parse.command(
    "file",
    {"Group": (o.GROUP,), "Files": (*o.FILES, *o.EPOCHS), **COMMON},
    required=(o.GROUP,),
    log_json_elsewhere=True,
    sink_kind="file",
)
def file(values: parse.Values) -> None:
    """Write a group's rows and changes to files of JSON lines, each change exactly once.

    A manifest beside the files tells which are complete, and how far the open one counts.
    """
    _work(values, "file")


@parse.command(
    "webhook",
    {"Group": (o.GROUP,), "Receiver": (*o.WEBHOOKS, *o.EPOCHS), **COMMON},
    required=(o.GROUP,),
    log_json_elsewhere=True,
    sink_kind="webhook",
)
def webhook(values: parse.Values) -> None:
    """Post a group's rows and changes to an HTTP endpoint until it takes them.

    A status 2xx means taken. 408, 429, 5xx and silence are tried again; any other answer stops.
    """
    _work(values, "webhook")


def _installed(kind: str) -> parse.Command:
    """Make the command of a sink from an installed package."""

    @parse.command(
        kind,
        {"Group": (o.GROUP,), "Sink": o.EPOCHS, **COMMON},
        required=(o.GROUP,),
        log_json_elsewhere=True,
        sink_kind=kind,
    )
    def command(values: parse.Values) -> None:
        """Hand a group's rows and changes to a sink of an installed package."""
        _work(values, kind)

    return command


def _work(values: parse.Values, kind: str) -> None:
    from pgflo.supervisor import processes

    # First of all: the two of us take long to import.
    processes.warm_up(processes.WORKER_CHILDREN)

    from setproctitle import setproctitle

    from pgflo.cli import broker, runtime
    from pgflo.cli import values as read
    from pgflo.worker.run import run as apply

    settings = read.worker(values, kind)
    setproctitle(f"pgflo worker {settings.sink} [{settings.group}]")
    settings = settings.model_copy(update={"nats": broker.found(settings)})

    async def service(stop: asyncio.Event) -> None:
        await apply(settings, stop)

    runtime.run_service(service)


class Workers(parse.Group):
    """Our sinks and, found by name when asked for, those of installed packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name all."""
        from pgflo.sinks.installed import installed

        return [*super().list_commands(ctx), *sorted(installed())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find one."""
        ours = super().get_command(ctx, cmd_name)
        if ours is not None:
            return ours
        from pgflo.sinks.installed import installed

        return _installed(cmd_name) if cmd_name in installed() else None


group = Workers(
    name="worker",
    help="Apply a group's copy and changes to one sink.",
    context_settings=parse.CONTEXT,
    commands={"postgres": postgres, "stdout": stdout, "file": file, "webhook": webhook},
)
