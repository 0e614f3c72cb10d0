"""Logging as the global options ask for it.

Upstream: every command, before its work. Downstream: `pgflo.logs`, and `report`, which asks whether
errors are to be printed as JSON.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pgflo.config.options import (
    LOG_FORMAT,
    LOG_LEVEL,
    NATS_URL,
    NO_COLOR,
    PASSWORD,
    QUIET,
    SOURCE,
    TARGET,
    TARGET_PASSWORD,
    TO,
    VERBOSE,
)

if TYPE_CHECKING:
    from pgflo.cli.parse import Values

META_JSON = "pgflo.errors_as_json"
META_VERBOSE = "pgflo.verbose"


def start_logging(values: Values, *, json_elsewhere: bool) -> None:
    """Configure logging, and warn of what should not have been typed."""
    import structlog

    from pgflo import logs

    log_format = values.get(LOG_FORMAT)
    if log_format == "auto" and (sys.stderr.isatty() or not json_elsewhere):
        log_format = "console"
    if log_format == "auto":
        log_format = "json"
    level = values.get(LOG_LEVEL) or (
        "debug" if values.get(VERBOSE) else "warning" if values.get(QUIET) else "info"
    )
    colorful = not values.get(NO_COLOR) and not os.environ.get("NO_COLOR")
    logs.configure(log_format, level, color=colorful and sys.stderr.isatty())
    root = values.context.find_root()
    root.meta[META_JSON] = log_format == "json"
    root.meta[META_VERBOSE] = level == "debug"
    log = structlog.get_logger("pgflo.cli")
    for option in (PASSWORD, TARGET_PASSWORD, SOURCE, TARGET, TO, NATS_URL):
        if values.rank(option) == 3 and _holds_password(option.name, _text(values.get(option))):
            log.warning(
                "the process list shows this password to everybody on this machine",
                flag=option.flag,
                instead=f"{option.env}, PGPASSWORD, .pgpass or a service file",
            )
    if values.config is not None:
        log.debug("configuration file", path=str(values.config.path))


def _text(value: object) -> str:
    """Give what was typed, of destinations their URLs."""
    return " ".join(to.value for to in value) if isinstance(value, tuple) else str(value)


def _holds_password(name: str, value: str) -> bool:
    from pgflo.logs import redact

    return name.endswith("password") or redact(value) != value
