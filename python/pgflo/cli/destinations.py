"""The sinks that `--to` names, with the settings of their workers.

Upstream: `replicate`. Downstream: `supervised`.
Invariant: a sink has the same name at every start, whatever stands around it, for under its name it
remembers where it is. So a name never follows from the order of the flags: it is the kind, or it is
written out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo.cli.supervised import WORKER_OPTIONS, Sink, as_environment
from pgflo.config import options as o
from pgflo.errors import USAGE, PgfloError

if TYPE_CHECKING:
    from pgflo.cli.parse import Values
    from pgflo.config.destination import Destination

CARE = (*(option for option in o.APPLYING if option is not o.SINK), *o.OUTLET_CARE)
"""What there is to say of the sinks of `--to` besides where they write."""


def sinks(values: Values) -> list[Sink]:
    """Give the sinks that `--to` names. Raises `PgfloError` USAGE."""
    from pgflo.sinks.installed import OURS, installed

    known = (*OURS, *installed())
    found: dict[str, Sink] = {}
    for to in values.get(o.TO):
        if to.kind not in known:
            raise PgfloError(
                USAGE,
                f"{values.origin(o.TO)}: there is no sink {to.kind}; there are {', '.join(known)}",
            )
        sink = _sink(values, to)
        if sink.name in found:
            raise PgfloError(
                USAGE,
                f"{values.origin(o.TO)}: two sinks are called {sink.name}",
                hint="Give one a name of its own, which stays: --to NAME=URL.",
            )
        found[sink.name] = sink
    return list(found.values())


def _sink(values: Values, to: Destination) -> Sink:
    environment = as_environment(values, WORKER_OPTIONS)
    if to.option is not None:
        environment[to.option.env] = to.value
    elif to.kind == "postgres":
        raise PgfloError(
            USAGE,
            f"{values.origin(o.TO)}: a PostgreSQL sink needs a database",
            hint="Write --to postgres://USER@HOST/DBNAME.",
        )
    elif to.kind in ("file", "webhook"):
        raise PgfloError(
            USAGE,
            f"{values.origin(o.TO)}: a {to.kind} sink needs more than its kind",
            hint="Write --to file:///DIRECTORY, or --to https://HOST/PATH.",
        )
    return Sink(to.name or to.kind, to.kind, environment)


def refuse_lonely_settings(values: Values) -> None:
    """Refuse what was typed of sinks where none runs. In a file it may be meant for others."""
    lonely = [option.flag for option in CARE if values.rank(option) == 3]
    if lonely:
        raise PgfloError(
            USAGE,
            f"{lonely[0]} says something of a sink, and none was named",
            hint="Add --to URL, or give it to `pgflo worker`.",
        )
