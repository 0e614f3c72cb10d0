"""`pgflo run`: a replicator and every sink's worker, in one supervised process tree.

Upstream: `app`. Downstream: `supervised`.
Invariant: every entry of `sinks:` in the file gets one worker, with what the entry says over what
the rest of the file says, under flags and environment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo.cli import parse
from pgflo.cli.supervised import WORKER_OPTIONS, Sink, as_environment, as_text
from pgflo.config import options as o
from pgflo.errors import USAGE, PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgflo.config import file


@parse.command(
    "run",
    {
        "Group": (o.GROUP,),
        "Source": (*o.SOURCE_SERVER, *o.TABLE_CHOICE, o.INSERT_ONLY_TABLES),
        "Mode": (*o.MODES, *o.ENDING, o.RESTART, o.YES),
        "Copy": o.COPYING,
        "Destination": (*o.TARGET_SERVER, *o.APPLYING),
        "Sinks of JSON lines": o.OUTLET_CARE,
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
    from pgflo.cli import supervised
    from pgflo.cli import values as read

    supervised.run(values, read.replicate(values), list(_sinks(values)), title="run")


def _sinks(values: parse.Values) -> Iterator[Sink]:
    """Give each sink that gets a worker."""
    from pgflo.cli import values as read

    sinks = values.config.sinks if values.config is not None else {}
    if not sinks:
        read.target_conninfo(values)
        name = values.get(o.SINK) or "postgres"
        yield Sink(name, "postgres", as_environment(values, WORKER_OPTIONS))
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
    environment = as_environment(values, from_file)
    for name, value in sink.values.items():
        option = o.BY_NAME.get(name)
        if option is not None and values.rank(option) < 2:
            environment[option.env] = as_text(value)
    has_target = bool({o.BY_NAME[name].env for name in target} & environment.keys())
    if sink.kind == "postgres" and not has_target:
        raise PgfloError(
            USAGE,
            f"sink {sink.name} has no destination",
            hint=f"Add `to: postgres://…` to the entry `{sink.name}` of `sinks:`; file:///, https://"
            " and stdout are destinations, too.",
        )
    return environment
