"""Logging: structlog on the standard library's logging, everything on stderr, data never.

Upstream: every module's `structlog.get_logger("pgflo.<area>")`, and the loggers of libraries.
Downstream: a terminal (console lines) or a collector (one JSON object a line).
Invariant: nothing is written to stdout, and what looks like a password is replaced on the way out.
That is the last line of defence: callers do not log connection strings in the first place.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any, Literal

from pgflo.lean import without

with without("rich"):  # for tracebacks in colour, which are not wanted here
    import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

Format = Literal["auto", "console", "json"]
LEVELS = ("debug", "info", "warning", "error", "critical")

HIDDEN = "***"

SECRETS = (
    # user:password@ and token@ of a URL; greedy, since an unescaped @ may stand in the password
    re.compile(r"(?<=://)(?P<user>[^\s/:@?#'\"]*):[^\s/]*(?=@)"),
    re.compile(r"(?P<user>\b(?:nats|tls|wss?)://)[^\s/:@,]+(?=@)"),
    # password=… of a URL's query
    re.compile(r"(?P<user>[?&](?:ssl)?password=)[^\s&#]+", re.IGNORECASE),
    # password=… of a connection string, quoted or with escapes
    re.compile(
        r"(?P<user>(?<![?&])\b(?:ssl)?password\s*=\s*)(?:'(?:[^'\\]|\\.)*'?|(?:\\.|[^\s\\])+)",
        re.IGNORECASE | re.DOTALL,
    ),
)

_configured: dict[str, str | bool] = {}


def redact(text: str) -> str:
    """Replace passwords in URLs and connection strings by stars. Cost: four scans of the text."""
    url_password, nats_token, *keywords = SECRETS
    text = url_password.sub(rf"\g<user>:{HIDDEN}", text)
    text = nats_token.sub(rf"\g<user>{HIDDEN}", text)
    for keyword in keywords:
        text = keyword.sub(rf"\g<user>{HIDDEN}", text)
    return text


def configure(
    log_format: Format = "auto", level: str = "info", *, color: bool | None = None
) -> None:
    """Set up logging of this process. `auto` is console on a terminal, JSON elsewhere."""
    terminal = sys.stderr.isatty()
    if log_format == "auto":
        log_format = "console" if terminal else "json"
    _apply(log_format, level, color=terminal if color is None else color)


def child_payload() -> dict[str, str | bool]:
    """Give what a child process hands to `configure_child`; plain values, cheap to pickle."""
    return dict(_configured)


def configure_child(payload: Mapping[str, str | bool]) -> None:
    """Log in a child process as its parent does."""
    log_format: Literal["console", "json"] = (
        "json" if payload.get("format") == "json" else "console"
    )
    _apply(log_format, str(payload.get("level", "info")), color=bool(payload.get("color")))


def _apply(log_format: Literal["console", "json"], level: str, *, color: bool) -> None:
    _configured.update(format=log_format, level=level, color=color)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(
            fmt="iso" if log_format == "json" else "%H:%M:%S", utc=log_format == "json"
        ),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_to_json)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=color, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _redact_event,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(number)
    for noisy in ("nats", "asyncio"):
        # Their debug lines carry whole protocol messages, and with them rows and credentials.
        logging.getLogger(noisy).setLevel(max(number, logging.INFO))
    logging.captureWarnings(capture=True)


class _Stderr(logging.Handler):
    """Writes to what `sys.stderr` is at that moment: a live display puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self.handleError(record)


def _redact_event(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
        elif not isinstance(value, int | float | bool | None):
            event[key] = redact(str(value))
    return event


def _to_json(event: object, **_options: object) -> str:
    import orjson

    return orjson.dumps(event).decode()
