"""How a failure is told: one block for people, or one JSON line for machines, on stderr.

Upstream: `app`, with whatever a command raised. Downstream: a terminal or a log collector.
Invariant: kind, detail, place and the next command, in this order; passwords are starred out.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pgflo.errors import USAGE, Kind, PgfloError, Retry
from pgflo.errors import Exit as ExitCode

if TYPE_CHECKING:
    import click

INTERNAL = Kind(
    "internal",
    ExitCode.INTERNAL,
    Retry.BACKOFF,
    "This is a defect of pgflo. Start the command again with --verbose and report the traceback.",
)


def from_click(error: click.ClickException) -> PgfloError:
    """Turn a usage error of click into one of ours; the hint is the help of that very command."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "pgflo"
    return PgfloError(USAGE, error.format_message(), hint=f"See `{path} --help`.")


def unexpected(error: BaseException) -> PgfloError:
    """Tell a defect shortly. Its own text is left out: it may hold a row's values."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}")
        trace = trace.tb_next
    place = next((frame for frame in reversed(frames) if frame.startswith("pgflo")), "pgflo")
    return PgfloError(INTERNAL, f"unexpected {type(error).__name__} at {place}")


def innermost(error: BaseException) -> BaseException:
    """Give the failure that counts out of a group: a `PgfloError` before any other."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    parts = [innermost(part) for part in error.exceptions]
    operator = [part for part in parts if isinstance(part, PgfloError) and not part.can_heal]
    ours = [part for part in parts if isinstance(part, PgfloError)]
    return (operator or ours or parts)[0]


def report(error: PgfloError, *, as_json: bool) -> None:
    """Write the failure to stderr."""
    print(to_json(error) if as_json else to_text(error), file=sys.stderr, flush=True)  # noqa: T201


def to_json(error: PgfloError) -> str:
    """Give the failure as one line of JSON."""
    import json

    from pgflo.logs import redact

    fields = {
        "event": "error",
        "level": "error",
        "kind": error.kind.code,
        "detail": redact(error.detail),
        "hint": redact(error.hint),
        "exit_code": int(error.exit_code),
        **{
            key: redact(value) if isinstance(value, str) else value
            for key, value in error.context.items()
        },
    }
    return json.dumps(fields, ensure_ascii=False)


def to_text(error: PgfloError) -> str:
    """Give the failure as a block of two to four lines."""
    from pgflo.logs import redact

    first, *more = error.detail.splitlines() or [""]
    lines = [f"error: {first}  [{error.kind.code}]", *(f"       {line}" for line in more)]
    if error.context:
        where = ", ".join(f"{key} {value}" for key, value in error.context.items())
        lines.append(f"where: {where}")
    lines.append(f"next:  {error.hint}")
    return redact("\n".join(lines))
