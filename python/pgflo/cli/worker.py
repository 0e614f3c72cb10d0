"""`pgflo worker postgres`.

Upstream: `app`. Downstream: `pgflo.worker.run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo.cli import parse
from pgflo.config import options as o

if TYPE_CHECKING:
    import asyncio


@parse.command(
    "postgres",
    {
        "Group": (o.GROUP,),
        "Destination": (*o.TARGET_SERVER, *o.APPLYING),
        "Source, for --target-sync-schema": o.SCHEMA_SOURCE,
        "Ending": o.ENDING,
        "Broker": (*o.NATS_SERVER, *o.NATS_STORE),
        "Retries": o.RETRIES,
    },
    required=(o.GROUP,),
    log_json_elsewhere=True,
)
def postgres(values: parse.Values) -> None:
    """Apply a group's copy and changes to a PostgreSQL database.

    Needs access to the source only for --target-sync-schema. Without --nats-url the broker is the
    one that `pgflo replicate` of the same group started on this machine.
    """
    from pgflo.supervisor import processes

    # First of all: the two of us take long to import.
    processes.warm_up(processes.WORKER_CHILDREN)

    from setproctitle import setproctitle

    from pgflo.cli import broker, runtime
    from pgflo.cli import values as read
    from pgflo.worker.run import run as apply

    settings = read.worker(values)
    setproctitle(f"pgflo worker {settings.sink} [{settings.group}]")
    settings = settings.model_copy(update={"nats": broker.found(settings)})

    async def service(stop: asyncio.Event) -> None:
        await apply(settings, stop)

    runtime.run_service(service)


group = parse.Group(
    name="worker",
    help="Apply a group's copy and changes to one sink.",
    context_settings=parse.CONTEXT,
    commands={"postgres": postgres},
)
