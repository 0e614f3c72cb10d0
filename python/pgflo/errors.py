"""Every way in which pgflo stops: one table of kinds, with exit code, retry rule and the operator's next step.

Upstream: every package raises `PgfloError` with a kind from here. Downstream: the command line prints
kind, detail and hint and exits with the kind's code; retry loops ask `kind.retry`.
Invariant: codes are unique, every hint names a setting or a command, and no text carries a row value
or a password.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    PREFLIGHT = 3
    SOURCE = 4
    SINK = 5
    BROKER = 6
    DIFFERS = 7
    RUNNING = 8
    INTERRUPTED = 130


class Retry(enum.Enum):
    """What a supervisor may do after an error of a kind."""

    BACKOFF = "backoff"
    """Time can heal it: try again with growing, jittered waits."""
    OPERATOR = "operator"
    """Somebody has to change something first: stop."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of failure. `code` is stable and appears in logs, `--json` output and the documentation."""

    code: str
    exit_code: Exit
    retry: Retry
    hint: str


class PgfloError(Exception):
    """A failure that a user can act on. `context` holds names and positions, never row values."""

    def __init__(
        self, kind: Kind, detail: str, *, hint: str | None = None, **context: str | int
    ) -> None:
        super().__init__(f"{kind.code}: {detail}")
        self.kind = kind
        self.detail = detail
        self.hint = hint or kind.hint
        self.context = context

    @property
    def exit_code(self) -> Exit:
        """The process exit code that this failure asks for."""
        return self.kind.exit_code

    @property
    def can_heal(self) -> bool:
        """Whether trying again later may succeed without anybody's help."""
        return self.kind.retry is Retry.BACKOFF


def describe(error: psycopg.Error) -> str:
    """Tell a server error by SQLSTATE, condition and object names: its message may quote row values.

    Connection failures have no SQLSTATE; their text comes from libpq and names host and port only.
    """
    diag = error.diag
    if not diag.sqlstate:
        return " ".join(str(error).split()) or type(error).__name__
    parts = [f"{type(error).__name__} (SQLSTATE {diag.sqlstate})"]
    parts += [
        f"{label} {name}"
        for label, name in (
            ("table", ".".join(filter(None, (diag.schema_name, diag.table_name)))),
            ("column", diag.column_name),
            ("constraint", diag.constraint_name),
            ("type", diag.datatype_name),
        )
        if name
    ]
    return ", ".join(parts)


# --- use and configuration -----------------------------------------------------------------------
USAGE = Kind("usage", Exit.USAGE, Retry.OPERATOR, "See `pgflo COMMAND --help`.")
CONFIG = Kind(
    "config", Exit.USAGE, Retry.OPERATOR, "Mend the setting; `pgflo COMMAND --help` lists them all."
)
PORT_TAKEN = Kind(
    "config.port_taken", Exit.USAGE, Retry.OPERATOR, "Choose another port, or 0 for a free one."
)
BINARY_MISSING = Kind(
    "config.binary_missing",
    Exit.USAGE,
    Retry.OPERATOR,
    "Install the program, or name it: PG_FLO_PG_BIN (a directory), PG_FLO_NATS_SERVER (a file).",
)
GROUP_RUNNING = Kind(
    "group.running",
    Exit.RUNNING,
    Retry.OPERATOR,
    "Stop the other process first; `pgflo status --group GROUP` tells where it runs.",
)
GROUP_SUPERSEDED = Kind(
    "group.superseded",
    Exit.RUNNING,
    Retry.OPERATOR,
    "Another process took over; look at it with `pgflo status --group GROUP`.",
)
GROUP_UNKNOWN = Kind(
    "group.unknown", Exit.USAGE, Retry.OPERATOR, "Start `pgflo replicate --group GROUP` first."
)
GROUP_CHANGED = Kind(
    "group.changed",
    Exit.RUNNING,
    Retry.OPERATOR,
    "The group's record changed under this process; start the command again.",
)
DIFFERS = Kind(
    "compare.differs",
    Exit.DIFFERS,
    Retry.OPERATOR,
    "Look at the tables named above; `pgflo replicate --restart` copies the group anew.",
)

# --- embedded servers ----------------------------------------------------------------------------
SERVER_START = Kind(
    "embedded.start",
    Exit.INTERNAL,
    Retry.OPERATOR,
    "Read the server's log named above; PG_FLO_PG_BIN and PG_FLO_NATS_SERVER choose other programs.",
)

# --- source --------------------------------------------------------------------------------------
SOURCE_UNREACHABLE = Kind(
    "source.unreachable",
    Exit.SOURCE,
    Retry.BACKOFF,
    "Check --host, --port and that the server accepts connections from here.",
)

# --- broker --------------------------------------------------------------------------------------
BROKER_UNREACHABLE = Kind(
    "broker.unreachable",
    Exit.BROKER,
    Retry.BACKOFF,
    "Check --nats-url and that nats-server runs with JetStream (`nats-server -js`).",
)

# --- sink ----------------------------------------------------------------------------------------
SINK_UNREACHABLE = Kind(
    "sink.unreachable",
    Exit.SINK,
    Retry.BACKOFF,
    "Check --target-host, --target-port and that the server accepts connections from here.",
)
