"""A replicator and workers in one supervised process tree.

Upstream: `run`, whose sinks stand in a file, and `replicate --to`. Downstream:
`pgflo.supervisor.tree`, running `pgflo replicate` and `pgflo worker`.
Invariant: what this process resolved is what its children get, whatever happens to the file
afterwards; it travels in the environment, never in arguments.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from pgflo.config import options as o
from pgflo.errors import USAGE, PgfloError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from pgflo.cli import parse
    from pgflo.config.settings import NatsSettings, ReplicateSettings
    from pgflo.supervisor.tree import Program

ENDING_NAMES = {option.env for option in o.ENDING}
WORKER_OPTIONS = tuple(option for option in o.WORKING if option not in (o.SINK, *o.SCHEMA_SOURCE))


@dataclass(frozen=True, slots=True)
class Sink:
    """A sink with the settings of its worker."""

    name: str
    kind: str
    environment: dict[str, str] = field(repr=False)


def run(
    values: parse.Values, settings: ReplicateSettings, sinks: Sequence[Sink], *, title: str
) -> None:
    """Run all of them until they have ended, or until what cannot heal stops one.

    What dies is started again. Raises `PgfloError` USAGE, and `Exit` with the code of what failed.
    """
    from setproctitle import setproctitle

    from pgflo.cli import broker, runtime
    from pgflo.cli.replicate import confirm_restart
    from pgflo.status.ending import all_applied
    from pgflo.supervisor.tree import Tree

    if sum(sink.kind == "stdout" for sink in sinks) > 1:
        raise PgfloError(
            USAGE,
            "two sinks would print to one stdout, each into the other's lines",
            hint="Start one of them as `pgflo worker stdout`, with a --sink name of its own.",
        )
    confirm_restart(values, settings)
    setproctitle(f"pgflo {title} [{settings.group}]")
    codes: list[int] = []

    async def service(stop: asyncio.Event) -> None:
        async with broker.provided(settings.nats, settings.state_dir, settings.group) as nats:
            programs = _programs(values, settings, sinks, nats)
            names = [sink.name for sink in sinks]

            async def applied(stopped: asyncio.Event) -> None:
                await all_applied(nats, settings.group, names, stopped)

            codes.append(await Tree(programs, settings.retry, applied).run(stop))

    runtime.run_service(service)
    if codes and codes[0]:
        raise click.exceptions.Exit(codes[0])


def as_environment(values: parse.Values, options: Any) -> dict[str, str]:  # noqa: ANN401
    """Give the options that the user set as environment variables."""
    return {option.env: as_text(values.get(option)) for option in options if values.is_set(option)}


def as_text(value: object) -> str:
    """Write a value as its option is read from the environment."""
    match value:
        case bool():
            return "true" if value else "false"
        case tuple() | list():
            return ",".join(str(item) for item in value)
        case _:
            return str(value)


def _programs(
    values: parse.Values,
    settings: ReplicateSettings,
    sinks: Sequence[Sink],
    nats: NatsSettings,
) -> list[Program]:
    from pgflo.supervisor.tree import Program, inherited_environment

    common = {
        **inherited_environment(),
        **as_environment(values, (*o.GLOBAL, o.GROUP)),
        o.CONFIG.env: os.devnull,
        o.NATS_URL.env: nats.url or "",
        o.STATE_DIR.env: str(settings.state_dir),
    }
    at_lsn = settings.until is not None and settings.until != "now"
    ends = settings.mode == "copy" or settings.once or settings.until is not None
    replicating = {**as_environment(values, o.REPLICATING), **common}
    restart = Restart(settings, nats) if settings.restart else None

    async def replicator() -> Mapping[str, str]:
        if restart is not None and await restart.is_due():
            return {**replicating, o.RESTART.env: "true", o.YES.env: "true"}
        return replicating

    programs = [Program("replicator", ("replicate",), replicator, ends=ends)]
    # To a worker "once" and "now" mean what is in the broker when it looks, which may be less than
    # the replicator is about to publish. It is stopped when it has all of that.
    without = set() if at_lsn else ENDING_NAMES
    source = settings.source.conninfo.get_secret_value()
    for sink in sinks:
        syncs = sink.environment.get(o.TARGET_SYNC_SCHEMA.env, "no")
        if sink.kind == "postgres" and click.BOOL.convert(syncs, None, None):
            sink.environment.setdefault(o.SOURCE.env, source)
        kept = {key: value for key, value in sink.environment.items() if key not in without}
        worker_ends = settings.mode == "copy" or at_lsn
        programs.append(_worker_program(sink, {**kept, **common}, ends=worker_ends))
    return programs


def _worker_program(sink: Sink, environment: dict[str, str], *, ends: bool) -> Program:
    from pgflo.supervisor.tree import Program

    async def settings() -> Mapping[str, str]:
        return {**environment, o.SINK.env: sink.name}

    return Program(f"worker {sink.name}", ("worker", sink.kind), settings, ends=ends)


class Restart:
    """--restart, once: a replicator that dies later must go on, not begin again.

    The group's incarnation tells whether it has happened.
    """

    def __init__(self, settings: ReplicateSettings, nats: NatsSettings) -> None:
        self.group = settings.group
        self.nats = nats
        self.former: str | None = None
        self.asked = False

    async def is_due(self) -> bool:
        """Whether the group still is the one that is to be forgotten."""
        from pgflo.status.record import incarnation

        now = await incarnation(self.nats, self.group)
        if not self.asked:
            self.asked, self.former = True, now
            return True
        return now == self.former
