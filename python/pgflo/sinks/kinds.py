"""Which kinds of sinks there are: ours, and those of packages that are installed.

Upstream: the worker's settings, the command line. Downstream: the modules of this package,
`installed`.
Invariant: what makes a sink does not touch its destination; taking it over does.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.sinks.installed import OURS, installed
from pgflo.sinks.lines import LineSink

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from pgflo.config.settings import WorkerSettings
    from pgflo.sinks.contract import Sink


def make(settings: WorkerSettings) -> Sink:
    """Make the sink that the settings describe. Raises `PgfloError` CONFIG."""
    match settings.kind:
        case "postgres":
            return _postgres(settings)
        case "stdout":
            from pgflo.sinks.stdout import Stdout

            return LineSink("stdout", settings, Stdout)
        case "file":
            from pgflo.sinks.file import FileOutlet

            return LineSink("file", settings, FileOutlet)
        case "webhook":
            from pgflo.sinks.webhook import Webhook, of, warn

            warn(of(settings.webhook))
            return LineSink("webhook", settings, Webhook)
        case name:
            return LineSink(name, settings, _found(name).load())


def _postgres(settings: WorkerSettings) -> Sink:
    from pgflo.sinks.postgres.sink import PostgresSink

    if settings.target is None:
        raise PgfloError(errors.CONFIG, "a PostgreSQL sink needs a destination")
    return PostgresSink(
        settings.target.get_secret_value(),
        settings.group,
        settings.sink,
        uuid.uuid4(),
        not_empty=settings.target_not_empty,
    )


def _found(name: str) -> EntryPoint:
    points = installed()
    if name not in points:
        known = ", ".join((*OURS, *points))
        raise PgfloError(errors.CONFIG, f"there is no sink {name}; there are {known}")
    return points[name]
