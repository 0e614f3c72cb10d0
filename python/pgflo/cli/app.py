"""The command line: which commands there are, and how each of them ends.

Upstream: `main` and the tests. Downstream: one module per command.
Invariant: every ending has one exit code out of the table in `pgflo.errors`; a failure is told
once, on stderr, with the next command.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pgflo.cli import (
    compare,
    config,
    demo,
    drop,
    replicate,
    report,
    rules,
    status,
    version,
    worker,
)
from pgflo.cli import run as run_command
from pgflo.cli.log_setup import META_JSON, META_VERBOSE
from pgflo.cli.parse import CONTEXT, Group
from pgflo.errors import Exit, PgfloError
from pgflo.supervisor import lifeline

if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = """Copy and stream PostgreSQL tables to PostgreSQL through NATS JetStream, exactly once.

Try it without any server at hand: `pgflo demo`.
"""

SERVICES = {"replicate", "replicator", "worker", "run"}
"""Commands whose log goes to a collector when nobody sits at a terminal."""

app = Group(
    name="pgflo",
    help=HELP,
    context_settings=CONTEXT,
    commands={
        command.name or "": command
        for command in (
            replicate.command,
            worker.group,
            run_command.command,
            status.command,
            compare.command,
            rules.group,
            config.group,
            drop.command,
            demo.command,
            version.command,
        )
    },
)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; nothing escapes."""
    state: dict[str, bool] = {}
    lifeline.follow_supervisor()
    try:
        context = app.make_context("pgflo", list(arguments))
        with context:
            try:
                app.invoke(context)
            finally:
                state.update(context.meta)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as usage:
        print(usage.message, file=sys.stderr)  # noqa: T201 - the help itself
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        print(file=sys.stderr)  # noqa: T201 - below the ^C
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output is gone; what Python flushes at exit must not fail again.
        sys.stdout = sys.stderr
        return Exit.DONE
    except BaseException as error:  # noqa: BLE001 - the last stop
        return _tell(error, state, as_json=_wants_json(arguments, state))
    return Exit.DONE


def _tell(error: BaseException, state: dict[str, bool], *, as_json: bool) -> int:
    cause = report.innermost(error)
    if type(cause).__name__ == "Aborted":
        return Exit.INTERRUPTED
    if isinstance(cause, click.ClickException):
        cause = report.from_click(cause)
    if not isinstance(cause, PgfloError):
        if isinstance(cause, SystemExit):
            return int(cause.code or 0) if isinstance(cause.code, int | None) else Exit.INTERNAL
        failure = report.unexpected(cause)
    else:
        failure = cause
    if state.get(META_VERBOSE):
        import structlog

        structlog.get_logger("pgflo.cli").debug("traceback", exc_info=error)
    report.report(failure, as_json=as_json)
    lifeline.tell_supervisor(failure)
    return failure.exit_code


def _wants_json(arguments: Sequence[str], state: dict[str, bool]) -> bool:
    """Whether errors are lines of JSON; before the options are parsed only their text tells."""
    if META_JSON in state:
        return state[META_JSON]
    import os

    words = " ".join(arguments).replace("=", " ").split()
    told = os.environ.get("PG_FLO_LOG_FORMAT", "auto")
    if "--log-format" in words[:-1]:
        told = words[words.index("--log-format") + 1]
    service = bool(SERVICES & set(words[:1]))
    return told == "json" or (told != "console" and service and not sys.stderr.isatty())
