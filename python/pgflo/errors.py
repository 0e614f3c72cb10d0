"""Every way in which pgflo stops: kinds with exit code, retry rule and the operator's next step.

Upstream: every package raises `PgfloError` with a kind from here. Downstream: the command line
prints kind, detail and hint and exits with the kind's code; retry loops ask `kind.retry`.
Invariant: codes are unique, every hint names a setting or a command, and no text carries a row
value or a password.
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
    """A class of failure. `code` is stable: logs and `--json` output show it."""

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
    """Tell a server error by SQLSTATE, condition and object names: its text may quote row values.

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
CONFIG_RULES = Kind(
    "config.rules",
    Exit.USAGE,
    Retry.OPERATOR,
    "Mend the rules or the routing: `pgflo rules lint` finds all mistakes. Then start"
    " `pgflo worker` again: it goes on where it was.",
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
    "Another process changed the group's record. Start the command again.",
)
DIFFERS = Kind(
    "compare.differs",
    Exit.DIFFERS,
    Retry.OPERATOR,
    "Look at the tables named above; `pgflo replicate --restart` copies the group anew.",
)

COMPARE_BEHIND = Kind(
    "compare.behind",
    Exit.DIFFERS,
    Retry.OPERATOR,
    "Give it longer with --timeout; `pgflo status --group GROUP` shows how far every sink is.",
)
COMPARE_FAILED = Kind(
    "compare.failed",
    Exit.SINK,
    Retry.OPERATOR,
    "Mend what the destination says, then start `pgflo compare` again.",
)

# --- embedded servers ----------------------------------------------------------------------------
SERVER_START = Kind(
    "embedded.start",
    Exit.INTERNAL,
    Retry.OPERATOR,
    "Read the log named above; PG_FLO_PG_BIN and PG_FLO_NATS_SERVER choose other programs.",
)

BINARY_TOO_OLD = Kind(
    "config.binary_too_old",
    Exit.USAGE,
    Retry.OPERATOR,
    "Install a newer one, or name it: PG_FLO_PG_BIN (a directory), PG_FLO_NATS_SERVER (a file).",
)
DIRECTORY_REFUSED = Kind(
    "embedded.directory",
    Exit.USAGE,
    Retry.OPERATOR,
    "Choose another directory with --state-dir, or another base for throw-away ones with TMPDIR.",
)
SERVER_STOP = Kind(
    "embedded.stop",
    Exit.INTERNAL,
    Retry.OPERATOR,
    "Read the log named above; PG_FLO_PG_BIN and PG_FLO_NATS_SERVER choose other programs.",
)

# --- source --------------------------------------------------------------------------------------
SOURCE_UNREACHABLE = Kind(
    "source.unreachable",
    Exit.SOURCE,
    Retry.BACKOFF,
    "Check --host, --port and that the server accepts connections from here.",
)
SOURCE_DSN = Kind(
    "source.dsn",
    Exit.USAGE,
    Retry.OPERATOR,
    "Write --source as postgres://user@host:port/dbname, special characters as %40, and give the "
    "password in PGPASSWORD or .pgpass.",
)
SOURCE_AUTH = Kind(
    "source.auth",
    Exit.SOURCE,
    Retry.OPERATOR,
    "Check --user, --password (or PGPASSWORD, .pgpass), --dbname and the server's pg_hba.conf.",
)
SOURCE_FAILED = Kind(
    "source.failed",
    Exit.SOURCE,
    Retry.OPERATOR,
    "Read the server's log (log_destination) at this time; then start the command again.",
)
SOURCE_MALFORMED = Kind(
    "source.malformed",
    Exit.SOURCE,
    Retry.OPERATOR,
    "Nothing was published of it. Start `pgflo replicate` again; if it stops at the same place, "
    "report it with `pgflo version` and the server's version.",
)
SOURCE_TOO_OLD = Kind(
    "source.too_old",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Upgrade the source to PostgreSQL 14 or later, or name another server with --host.",
)
SOURCE_IN_RECOVERY = Kind(
    "source.in_recovery",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Name the primary with --host: publications and exported slots are made there.",
)
SOURCE_WAL_LEVEL = Kind(
    "source.wal_level",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Run `ALTER SYSTEM SET wal_level = logical;` and restart the source.",
)
SOURCE_NO_REPLICATION_RIGHT = Kind(
    "source.no_replication_right",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Run `ALTER ROLE … REPLICATION;` as a superuser at the source.",
)
SOURCE_NO_CREATE_RIGHT = Kind(
    "source.no_create_right",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Run `GRANT CREATE ON DATABASE … TO …;` at the source: a publication needs it.",
)
SOURCE_NO_FREE_SLOT = Kind(
    "source.no_free_slot",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Raise max_replication_slots (or max_wal_senders) and restart the source, or drop an unused "
    "slot: `SELECT pg_drop_replication_slot('…');`.",
)
TABLE_MISSING = Kind(
    "source.table_missing",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Check --tables, --schema and --exclude-tables; names are quoted as in SQL.",
)
TABLE_UNSUPPORTED = Kind(
    "source.table_unsupported",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Leave it out with --exclude-tables: only permanent tables are written to the WAL.",
)
TABLE_WITHOUT_BINARY_FORM = Kind(
    "source.table_without_binary_form",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Leave --copy-format at auto: such tables travel as text, the others in binary.",
)
TABLE_NO_RIGHT = Kind(
    "source.table_no_right",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Run `GRANT SELECT ON … TO …;`, and make the role a member of the table's owner "
    "(`GRANT owner TO …;`): a publication needs it.",
)
TABLE_WITHOUT_IDENTITY = Kind(
    "source.table_without_identity",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Run `ALTER TABLE … REPLICA IDENTITY FULL;`, or name it in --insert-only-tables.",
)
TABLE_REWRITTEN = Kind(
    "source.table_rewritten",
    Exit.SOURCE,
    Retry.BACKOFF,
    "The copy takes another snapshot. Keep ALTER TABLE and VACUUM FULL away until "
    "`pgflo status` shows that it is done.",
)
COPY_BROKEN = Kind(
    "source.copy_broken",
    Exit.SOURCE,
    Retry.BACKOFF,
    "Look for a terminated session in the source's log; tables that are not finished are copied "
    "anew, under a new snapshot (`pgflo replicate`).",
)
GROUP_MODE = Kind(
    "group.mode",
    Exit.USAGE,
    Retry.OPERATOR,
    "Start with the mode the group was made with, or forget it and begin again: "
    "`pgflo replicate --restart`.",
)
GROUP_ORPHANED = Kind(
    "group.orphaned",
    Exit.SOURCE,
    Retry.OPERATOR,
    "Name the right broker with --nats-url. If its store is gone for good: "
    "`pgflo replicate --restart`, which copies anew, or `pgflo drop`.",
)
SLOT_MISSING = Kind(
    "source.slot_missing",
    Exit.SOURCE,
    Retry.OPERATOR,
    "The changes since are lost: `pgflo replicate --restart` copies the group anew.",
)
SLOT_LOST = Kind(
    "source.slot_lost",
    Exit.SOURCE,
    Retry.OPERATOR,
    "Raise max_slot_wal_keep_size, then `pgflo replicate --restart` copies the group anew.",
)
SLOT_AHEAD = Kind(
    "source.slot_ahead",
    Exit.SOURCE,
    Retry.OPERATOR,
    "The broker lost changes that the source has forgotten: `pgflo replicate --restart` copies "
    "the group anew.",
)
SLOT_ACTIVE = Kind(
    "source.slot_active",
    Exit.SOURCE,
    Retry.BACKOFF,
    "Another session reads the slot: `SELECT pg_terminate_backend(active_pid) FROM "
    "pg_replication_slots WHERE slot_name = …;` ends it, wal_sender_timeout ends a dead one.",
)
PUBLICATION_MISSING = Kind(
    "source.publication_missing",
    Exit.SOURCE,
    Retry.OPERATOR,
    "Changes made meanwhile are lost: `pgflo replicate --restart` copies the group anew.",
)
PUBLICATION_CHANGED = Kind(
    "source.publication_changed",
    Exit.SOURCE,
    Retry.OPERATOR,
    "Changes made meanwhile are lost: `pgflo replicate --restart` copies the group anew.",
)
SOURCE_OTHER_SYSTEM = Kind(
    "source.other_system",
    Exit.SOURCE,
    Retry.OPERATOR,
    "Check --host and --dbname. If this server is meant: `pgflo replicate --restart` copies the "
    "group anew.",
)
SOURCE_WENT_BACK = Kind(
    "source.went_back",
    Exit.SOURCE,
    Retry.OPERATOR,
    "The source was restored to an earlier state: `pgflo replicate --restart` copies the group "
    "anew.",
)

# --- broker --------------------------------------------------------------------------------------
BROKER_UNREACHABLE = Kind(
    "broker.unreachable",
    Exit.BROKER,
    Retry.BACKOFF,
    "Check --nats-url and that nats-server runs with JetStream (`nats-server -js`).",
)
BROKER_NO_JETSTREAM = Kind(
    "broker.no_jetstream",
    Exit.BROKER,
    Retry.OPERATOR,
    "Start the server with JetStream (`nats-server -js -sd DIRECTORY`), and allow it for this "
    "account.",
)
BROKER_TOO_OLD = Kind(
    "broker.too_old",
    Exit.BROKER,
    Retry.OPERATOR,
    "Upgrade to nats-server 2.10 or later, or leave out --nats-url: pgflo then starts its own.",
)
BROKER_DENIED = Kind(
    "broker.denied",
    Exit.BROKER,
    Retry.OPERATOR,
    "Check --nats-creds, or user and password in --nats-url.",
)
BROKER_TLS = Kind(
    "broker.tls",
    Exit.BROKER,
    Retry.OPERATOR,
    "Check --nats-tls-ca, --nats-tls-cert, --nats-tls-key, and that the server is configured "
    "with `tls`.",
)
BROKER_URL = Kind(
    "broker.url",
    Exit.USAGE,
    Retry.OPERATOR,
    "Write --nats-url as nats://user:password@host:port, special characters as %40.",
)
BROKER_REFUSED = Kind(
    "broker.refused",
    Exit.BROKER,
    Retry.OPERATOR,
    "Read the log of nats-server at this time; the user of --nats-url needs rights on "
    "$JS.API.>, $KV.> and _INBOX.>.",
)
BROKER_SETTINGS = Kind(
    "broker.settings",
    Exit.BROKER,
    Retry.OPERATOR,
    "Somebody else's stream, or one that was edited: put the setting back (`nats stream edit`), "
    "or remove the group with `pgflo drop --group GROUP`.",
)
BROKER_FULL = Kind(
    "broker.full",
    Exit.BROKER,
    Retry.OPERATOR,
    "Raise max_file_store of nats-server's jetstream block, or lower --stream-max-bytes.",
)
BROKER_PAYLOAD = Kind(
    "broker.payload",
    Exit.BROKER,
    Retry.OPERATOR,
    "Set max_payload to 1MB or more in nats-server's configuration.",
)
BROKER_WENT_BACK = Kind(
    "broker.went_back",
    Exit.BROKER,
    Retry.BACKOFF,
    "The broker lost what it had stored. The group is fed again from the source; if that no "
    "longer has it: `pgflo replicate --restart`.",
)
BROKER_CHAIN = Kind(
    "broker.chain",
    Exit.BROKER,
    Retry.OPERATOR,
    "Somebody else writes to the group's stream: find it with `pgflo status --group GROUP`, "
    "stop it, start `pgflo replicate` again.",
)
BROKER_GAP = Kind(
    "broker.gap",
    Exit.BROKER,
    Retry.OPERATOR,
    "Envelopes that were not read yet are gone from the stream: `pgflo replicate --restart` "
    "copies the group anew.",
)
BROKER_RECORD = Kind(
    "broker.record",
    Exit.BROKER,
    Retry.OPERATOR,
    "The group's record was written by something else or by another version: `pgflo drop "
    "--group GROUP` removes it.",
)

# --- sink ----------------------------------------------------------------------------------------
SINK_UNREACHABLE = Kind(
    "sink.unreachable",
    Exit.SINK,
    Retry.BACKOFF,
    "Check --target-host, --target-port and that the server accepts connections from here.",
)
SINK_INTERRUPTED = Kind(
    "sink.interrupted",
    Exit.SINK,
    Retry.BACKOFF,
    "The destination broke it off; `SELECT * FROM pg_stat_activity` and its log tell why.",
)
SINK_CONTENDED = Kind(
    "sink.contended",
    Exit.SINK,
    Retry.BACKOFF,
    "Another session at the destination got in the way (a deadlock, a cancelled statement). It is "
    "applied again by itself; `log_lock_waits` tells who it was.",
)
SINK_CRASHED = Kind(
    "sink.crashed",
    Exit.INTERNAL,
    Retry.OPERATOR,
    "The log above holds the traceback; report it with what `pgflo version` prints.",
)
SINK_READ_ONLY = Kind(
    "sink.read_only",
    Exit.SINK,
    Retry.BACKOFF,
    "Point --target at the primary; target_session_attrs=read-write finds it among several.",
)
SINK_AUTH = Kind(
    "sink.auth",
    Exit.SINK,
    Retry.OPERATOR,
    "Check --target-user, --target-dbname and the password (PGPASSWORD, .pgpass or --target).",
)
SINK_PRIVILEGE = Kind(
    "sink.privilege",
    Exit.SINK,
    Retry.OPERATOR,
    "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON the tables, and CREATE ON DATABASE once,"
    " TO the --target-user; ALTER ROLE … BYPASSRLS where a table has row security.",
)
SINK_TOO_OLD = Kind(
    "sink.too_old",
    Exit.PREFLIGHT,
    Retry.OPERATOR,
    "Point --target at a server of PostgreSQL 14 or later.",
)
SINK_TABLE_MISSING = Kind(
    "sink.table_missing",
    Exit.SINK,
    Retry.OPERATOR,
    "Let --target-sync-schema bring it, or create it there: `pg_dump --schema-only --table TABLE "
    "SOURCE | psql TARGET`.",
)
SINK_COLUMN_MISSING = Kind(
    "sink.column_missing",
    Exit.SINK,
    Retry.OPERATOR,
    "ALTER TABLE at the destination ADD COLUMN, then start `pgflo worker` again: it goes on there.",
)
SINK_NOT_EMPTY = Kind(
    "sink.not_empty",
    Exit.SINK,
    Retry.OPERATOR,
    "TRUNCATE the tables, or say --target-not-empty truncate, or append to keep their rows.",
)
SINK_REFUSED = Kind(
    "sink.refused",
    Exit.SINK,
    Retry.OPERATOR,
    "Mend the row or the constraint at the destination, then start `pgflo worker` again: it goes on"
    " with this change.",
)
SINK_OUTPUT = Kind(
    "sink.output",
    Exit.SINK,
    Retry.OPERATOR,
    "Mend what the system says about it, then start `pgflo worker` again: it goes on behind what is"
    " written.",
)
SINK_NO_SPACE = Kind(
    "sink.no_space",
    Exit.SINK,
    Retry.BACKOFF,
    "Make room in --file-output-dir; the worker goes on as soon as there is some.",
)
SINK_READER_GONE = Kind(
    "sink.reader_gone",
    Exit.SINK,
    Retry.OPERATOR,
    "Nobody reads stdout any more. Start `pgflo worker stdout` again: it goes on behind the last"
    " changes that were taken.",
)
SINK_FILE_CHANGED = Kind(
    "sink.file_changed",
    Exit.SINK,
    Retry.OPERATOR,
    "Somebody else has changed the files. Restore them, or name another --file-output-dir and copy"
    " anew: `pgflo replicate --restart`.",
)
SINK_FILE_LOCKED = Kind(
    "sink.file_locked",
    Exit.RUNNING,
    Retry.BACKOFF,
    "Another worker writes there: give each its own --sink name or --file-output-dir.",
)
SINK_RECEIVER = Kind(
    "sink.receiver",
    Exit.SINK,
    Retry.OPERATOR,
    "Check --webhook-url and the receiver's log, then start `pgflo worker webhook` again: it goes"
    " on with this request; --retry-max-attempts says how often it is tried.",
)
SINK_REJECTED = Kind(
    "sink.rejected",
    Exit.SINK,
    Retry.OPERATOR,
    "Mend the receiver, then start `pgflo worker webhook` again: it goes on with this request.",
)
SINK_ROW_COUNT = Kind(
    "sink.row_count",
    Exit.SINK,
    Retry.OPERATOR,
    "Rows got lost between source and destination; copy anew: `pgflo replicate --restart`.",
)
SINK_CHAIN_GAP = Kind(
    "sink.chain_gap",
    Exit.SINK,
    Retry.OPERATOR,
    "Changes are missing from the stream; copy anew: `pgflo replicate --restart`.",
)
SINK_LATE = Kind(
    "sink.late",
    Exit.SINK,
    Retry.OPERATOR,
    "The stream no longer holds its start; copy anew: `pgflo replicate --restart`.",
)

# --- schema --------------------------------------------------------------------------------------
SCHEMA_SOURCE = Kind(
    "schema.source",
    Exit.SOURCE,
    Retry.OPERATOR,
    "Read what it says. It locks the group's tables like a SELECT: `GRANT SELECT ON … TO …;` for "
    "the role of --source.",
)
SCHEMA_TARGET = Kind(
    "schema.target",
    Exit.SINK,
    Retry.OPERATOR,
    "Read what it says. It locks tables that are there like a SELECT: `GRANT SELECT ON … TO …;` "
    "for the --target-user.",
)
SCHEMA_OTHER_SOURCE = Kind(
    "schema.other_source",
    Exit.USAGE,
    Retry.OPERATOR,
    "Name the database that `pgflo replicate` of the group reads: --source, or --source-host and "
    "--source-dbname. After tables were dropped there: `pgflo replicate --restart`.",
)
SCHEMA_UNREADABLE = Kind(
    "schema.unreadable",
    Exit.SOURCE,
    Retry.OPERATOR,
    "Create the tables by `pg_dump --schema-only SOURCE | psql TARGET`, and leave "
    "--target-sync-schema out.",
)
SCHEMA_DIFFERS = Kind(
    "schema.differs",
    Exit.SINK,
    Retry.OPERATOR,
    "Nothing was changed. ALTER or DROP what differs, or leave --target-sync-schema out to keep "
    "what is there.",
)
SCHEMA_PRIVILEGE = Kind(
    "schema.privilege",
    Exit.SINK,
    Retry.OPERATOR,
    "GRANT CREATE ON DATABASE and ON SCHEMA to the --target-user; an extension that is not trusted "
    "is made by a superuser: CREATE EXTENSION. Then start `pgflo worker` again: it goes on there.",
)
SCHEMA_REFUSED = Kind(
    "schema.refused",
    Exit.SINK,
    Retry.OPERATOR,
    "Mend it at the destination, then start `pgflo worker` again: it goes on with this part. "
    "`pgflo replicate --restart` reads the source's schema anew.",
)
