"""Which kinds of sinks there are.

Upstream: the worker's settings. Downstream: the modules of this package.
Invariant: what makes a sink does not touch its destination; taking it over does.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.sinks.postgres.sink import PostgresSink

if TYPE_CHECKING:
    from pgflo.config.settings import WorkerSettings
    from pgflo.sinks.contract import Sink


def make(settings: WorkerSettings) -> Sink:
    """Make the sink that the settings describe. Raises `PgfloError` CONFIG."""
    if settings.target is None:
        raise PgfloError(errors.CONFIG, "a PostgreSQL sink needs a destination")
    return PostgresSink(
        settings.target.get_secret_value(),
        settings.group,
        settings.sink,
        uuid.uuid4(),
        not_empty=settings.target_not_empty,
    )
