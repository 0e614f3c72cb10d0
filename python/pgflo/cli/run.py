"""`pgflo run`: a replicator and every sink's worker, in one supervised process tree.

Upstream: `app`. Downstream: `pgflo.supervisor.tree`, running `pgflo replicate` and `pgflo worker`.
Invariant: what this process resolved is what its children get, whatever happens to the file
afterwards; it travels in the environment, never in arguments.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pgflo.cli import parse
from pgflo.config import options as o
from pgflo.errors import USAGE, PgfloError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Mapping

    from pgflo.config import file
    from pgflo.config.settings import NatsSettings, ReplicateSettings
    from pgflo.supervisor.tree import Program

ENDING_NAMES = {option.env for option in o.ENDING}
WORKER_OPTIONS = tuple(option for option in o.WORKING if option not in (o.SINK, *o.SCHEMA_SOURCE))


@dataclass(frozen=True, slots=True)
class Sink:
    """A sink with the settings of its worker."""

    name: str
    kind: str
    environment: dict[str, str]


@parse.command(
    "run",
    {
        "Group": (o.GROUP,),
        "Source": (*o.SOURCE_SERVER, *o.TABLE_CHOICE, o.INSERT_ONLY_TABLES),
        "Mode": (*o.MODES, *o.ENDING, o.RESTART, o.YES),
        "Copy": o.COPYING,
        "Destination": (*o.TARGET_SERVER, *o.APPLYING),
        "Broker": (*o.NATS_SERVER, *o.NATS_STORE),
        "Safety": o.SAFETY,
        "Retries": o.RETRIES,
    },
    required=(o.GROUP,),
    log_json_elsewhere=True,
)
def command(values: parse.Values) -> None:
    """Run a replicator and its workers together, from flags or a configuration file.

    Every entry of `sinks:` in the file gets a worker; without one the --target flags describe the
    only sink. What dies is started again; what needs your help stops everything with its exit code.
    """
    from setproctitle import setproctitle

    from pgflo.cli import broker, runtime
    from pgflo.cli import values as read
    from pgflo.cli.replicate import confirm_restart
    from pgflo.status.ending import all_applied
    from pgflo.supervisor.tree import Tree

    settings = read.replicate(values)
    workers = list(_workers(values))
    confirm_restart(values, settings)
    setproctitle(f"pgflo run [{settings.group}]")
    codes: list[int] = []

    async def service(stop: asyncio.Event) -> None:
        async with broker.provided(settings.nats, settings.state_dir, settings.group) as nats:
            programs = _programs(values, settings, workers, nats)
            sinks = [sink.name for sink in workers]

            async def applied(stopped: asyncio.Event) -> None:
                await all_applied(nats, settings.group, sinks, stopped)

            codes.append(await Tree(programs, settings.retry, applied).run(stop))

    runtime.run_service(service)
    if codes and codes[0]:
        raise click.exceptions.Exit(codes[0])


def _workers(values: parse.Values) -> Iterator[Sink]:
    """Give each sink that gets a worker."""
    from pgflo.cli import values as read

    sinks = values.config.sinks if values.config is not None else {}
    if not sinks:
        read.target_conninfo(values)
        name = values.get(o.SINK) or "postgres"
        yield Sink(name, "postgres", _environment(values, WORKER_OPTIONS))
        return
    typed = [option for option in o.TARGET_SERVER if values.rank(option) > 1]
    if typed and len(sinks) > 1:
        raise PgfloError(
            USAGE,
            f"{values.origin(typed[0])} is set, but the file has {len(sinks)} sinks",
            hint="Leave the destination to the entries of `sinks:`, or keep one of them.",
        )
    for sink in sinks.values():
        yield Sink(sink.name, sink.kind, _sink_environment(values, sink))


def _sink_environment(values: parse.Values, sink: file.Sink) -> dict[str, str]:
    target = {option.name for option in o.TARGET_SERVER}
    # What the flags say of a destination is meant for a database.
    own_target = bool(target & sink.values.keys()) or sink.kind != "postgres"
    from_file = [
        option
        for option in WORKER_OPTIONS
        if values.rank(option) > 1 or not (own_target and option.name in target)
    ]
    environment = _environment(values, from_file)
    for name, value in sink.values.items():
        option = o.BY_NAME.get(name)
        if option is not None and values.rank(option) < 2:
            environment[option.env] = _text(value)
    has_target = bool({o.BY_NAME[name].env for name in target} & environment.keys())
    if sink.kind == "postgres" and not has_target:
        raise PgfloError(
            USAGE,
            f"sink {sink.name} has no destination",
            hint=f"Add `to: postgres://…` to the entry `{sink.name}` of `sinks:`; file:///, https://"
            " and stdout are destinations, too.",
        )
    return environment


def _environment(values: parse.Values, options: Any) -> dict[str, str]:  # noqa: ANN401
    """Give the options that the user set as environment variables."""
    return {option.env: _text(values.get(option)) for option in options if values.is_set(option)}


def _text(value: object) -> str:
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
    workers: list[Sink],
    nats: NatsSettings,
) -> list[Program]:
    from pgflo.supervisor.tree import Program, inherited_environment

    common = {
        **inherited_environment(),
        **_environment(values, (*o.GLOBAL, o.GROUP)),
        o.CONFIG.env: os.devnull,
        o.NATS_URL.env: nats.url or "",
        o.STATE_DIR.env: str(settings.state_dir),
    }
    at_lsn = settings.until is not None and settings.until != "now"
    ends = settings.mode == "copy" or settings.once or settings.until is not None
    replicating = {**_environment(values, o.REPLICATING), **common}
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
    for sink in workers:
        if click.BOOL.convert(sink.environment.get(o.TARGET_SYNC_SCHEMA.env, "no"), None, None):
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
