"""The table of options: one row gives a flag, its environment variable and its configuration keys.

Upstream: nothing; this is where a new option starts. Downstream: `pgflo.cli` makes click options of
the rows, `pgflo.config.file` knows keys by them, `pgflo run` hands its children settings by them.
Invariant: every option has one name in three spellings: `--nats-url`, PG_FLO_NATS_URL, and
`nats-url:` in a file, where it may also stand in its section (`nats: {url: …}`).
The last part groups the options as the commands take them.
"""

from __future__ import annotations

import os

from pgflo.config.option import Option, Type

__all__ = ["ALL", "BY_NAME", "SECTIONS", "Option", "Type"]

CORES = os.cpu_count() or 1

CONFIG = Option(
    "config",
    "Configuration file; without it ./pgflo.yaml, ./pg_flo.yaml or ~/.pg_flo.yaml is read.",
    Type.PATH,
    short="-c",
    in_file=False,
)
VERBOSE = Option("verbose", "Log details, and tracebacks of errors.", Type.SWITCH, short="-v")
QUIET = Option("quiet", "Log warnings and errors only.", Type.SWITCH, short="-q")
LOG_FORMAT = Option(
    "log-format",
    "Form of the log on stderr; auto: console on a terminal, else JSON.",
    Type.CHOICE,
    default="auto",
    choices=("auto", "console", "json"),
)
LOG_LEVEL = Option(
    "log-level",
    "Least level that is logged; goes before -v and -q.",
    Type.CHOICE,
    choices=("debug", "info", "warning", "error"),
)
NO_COLOR = Option("no-color", "No colours (NO_COLOR works too).", Type.SWITCH)
STATE_DIR = Option(
    "state-dir",
    "Where embedded brokers live  [default: $XDG_STATE_HOME/pgflo]",
    Type.PATH,
)
JSON = Option("json", "Print JSON on stdout.", Type.SWITCH)
YES = Option("yes", "Do not ask.", Type.SWITCH, short="-y")

GROUP = Option("group", "Name of the replication: a-z, 0-9 and _, at most 40.", Type.GROUP)

SOURCE = Option(
    "source",
    "Source as URL or connection string, instead of --host and so on.",
    Type.HIDDEN,
    section="source",
    key="dsn",
    metavar="DSN",
)
HOST = Option("host", "Host or socket directory of the source.", section="source", key="host")
PORT = Option(
    "port", "Port of the source.", Type.INTEGER, section="source", key="port", least=1, most=65535
)
DBNAME = Option("dbname", "Database of the source.", section="source", key="dbname")
USER = Option("user", "Role that replicates.", section="source", key="user")
PASSWORD = Option(
    "password",
    "Seen in the process list: better PGPASSWORD, .pgpass or PG_FLO_PASSWORD.",
    Type.HIDDEN,
    section="source",
    key="password",
    least=1,
    most=65535,
)
SCHEMA = Option(
    "schema",
    "Schema of the tables that name none.",
    default="public",
    section="source",
    key="schema",
)
TABLES = Option(
    "tables",
    'Tables: a,b,other.c,"Odd.Name",sales.*  [default: all of --schema]',
    Type.PATTERNS,
    section="source",
    key="tables",
)
EXCLUDE_TABLES = Option(
    "exclude-tables",
    "Tables to leave out.",
    Type.PATTERNS,
    section="source",
    key="exclude-tables",
)
INSERT_ONLY_TABLES = Option(
    "insert-only-tables",
    "Tables without a usable identity: inserts and truncates only.",
    Type.PATTERNS,
    section="source",
    key="insert-only-tables",
)

STREAM = Option("stream", "Stream changes from now on (the default).", Type.SWITCH)
COPY = Option("copy", "Copy what is there, then end.", Type.SWITCH)
COPY_AND_STREAM = Option(
    "copy-and-stream", "Copy what is there, then stream every change.", Type.SWITCH
)
MAX_COPY_WORKERS_PER_TABLE = Option(
    "max-copy-workers-per-table",
    "Connections that read one table at a time.",
    Type.INTEGER,
    default=4,
    section="copy",
    key="max-workers-per-table",
    least=1,
    most=256,
)
MAX_COPY_WORKERS = Option(
    "max-copy-workers",
    "Connections that read in all; 1 for each core, at least 2.",
    Type.INTEGER,
    default=max(2, CORES),
    section="copy",
    key="max-workers",
    least=1,
    most=256,
)
RANGE_SIZE = Option(
    "range-size",
    "Size of a range: one transaction at the destination.",
    Type.SIZE,
    default="64MB",
    section="copy",
    key="range-size",
    least=8 * 1024,
)
COPY_FORMAT = Option(
    "copy-format",
    "Rows travel in binary where every type of a table allows (auto), must (binary), or as text.",
    Type.CHOICE,
    default="auto",
    section="copy",
    key="format",
    choices=("auto", "text", "binary"),
)
SNAPSHOT_LINGER = Option(
    "snapshot-linger",
    "How long an unfinished copy's snapshot outlives the replicator.",
    Type.DURATION,
    default="10m",
    section="copy",
    key="snapshot-linger",
)
UNTIL = Option("until", "End at this LSN, or at what is there `now`.", Type.UNTIL)
ONCE = Option("once", "Drain what is there, then end.", Type.SWITCH)
RESTART = Option(
    "restart", "Forget the group and begin again (asks, or --yes).", Type.SWITCH, in_file=False
)

NATS_URL = Option(
    "nats-url",
    "Broker; without it one is started for the group on this machine.",
    Type.HIDDEN,
    section="nats",
    key="url",
    metavar="URL",
)
NATS_CREDS = Option(
    "nats-creds", "Credentials file of the broker.", Type.PATH, section="nats", key="creds"
)
NATS_TLS_CA = Option(
    "nats-tls-ca",
    "Certificate authority of the broker.",
    Type.PATH,
    section="nats",
    key="tls-ca",
)
NATS_TLS_CERT = Option(
    "nats-tls-cert", "Own certificate for the broker.", Type.PATH, section="nats", key="tls-cert"
)
NATS_TLS_KEY = Option(
    "nats-tls-key", "Key of that certificate.", Type.PATH, section="nats", key="tls-key"
)
STREAM_MAX_BYTES = Option(
    "stream-max-bytes",
    "Most that the change stream may hold.",
    Type.SIZE,
    default="10GB",
    section="nats",
    key="stream-max-bytes",
    least=1024 * 1024,
)
STREAM_REPLICAS = Option(
    "stream-replicas",
    "Copies of the streams in a broker cluster.",
    Type.INTEGER,
    default=1,
    section="nats",
    key="stream-replicas",
    least=1,
    most=5,
)
RETAIN = Option(
    "retain",
    "How long applied changes stay in the broker.",
    Type.DURATION,
    default="10m",
    section="nats",
    key="retain",
)

CONFIRM_AFTER = Option(
    "confirm-after",
    "When the slot may forget: stored by every sink, by the broker, or auto.",
    Type.CHOICE,
    default="auto",
    choices=("auto", "sink", "broker"),
)
BROKER_SYNC_HORIZON = Option(
    "broker-sync-horizon",
    "After this time the broker's disk has what it acknowledged.",
    Type.DURATION,
    default="150s",
)

SINK = Option("sink", "Name of the sink  [default: its kind]", Type.SINK)
TO = Option(
    "to",
    "Run a sink, too; as often as you like: postgres://…, file:///DIR, https://…, stdout:, each"
    " called by its kind; NAME=URL gives a name, which a second one of a kind needs.",
    Type.DESTINATIONS,
    in_file=False,
    metavar="[NAME=]URL",
)
DROPPED_SINK = Option("sink", "Forget this sink only.", Type.SINK, in_file=False)
EPOCH_BYTES = Option(
    "epoch-bytes", "Changes applied in one transaction.", Type.SIZE, default="16MB", least=64 * 1024
)
BATCH_SIZE = Option(
    "batch-size",
    "Changes after which a transaction ends.",
    Type.INTEGER,
    default="250000",
    metavar="ROWS",
    least=1,
)
SHARDS = Option(
    "shards",
    "Connections that apply changes, each to its own rows.",
    Type.INTEGER,
    default=1,
    least=1,
    most=64,
)
COPY_WRITERS = Option(
    "copy-writers",
    "Connections that load copied ranges; 1 for each core.",
    Type.INTEGER,
    default=CORES,
    section="copy",
    key="writers",
    least=1,
    most=256,
)
RULES_CONFIG = Option(
    "rules-config",
    "File with rules: filters, masks, regular expressions, columns left out.",
    Type.REFERENCE,
    metavar="FILE",
)
ROUTING_CONFIG = Option(
    "routing-config",
    "File with routes: other tables, other columns, several of them.",
    Type.REFERENCE,
    metavar="FILE",
)
TARGET = Option(
    "target",
    "Destination as URL or connection string, instead of --target-host and so on.",
    Type.HIDDEN,
    section="target",
    key="dsn",
    metavar="DSN",
)
TARGET_HOST = Option(
    "target-host", "Host or socket directory of the destination.", section="target", key="host"
)
TARGET_PORT = Option(
    "target-port",
    "Port of the destination.",
    Type.INTEGER,
    section="target",
    key="port",
    least=1,
    most=65535,
)
TARGET_DBNAME = Option(
    "target-dbname", "Database of the destination.", section="target", key="dbname"
)
TARGET_USER = Option("target-user", "Role that writes.", section="target", key="user")
TARGET_PASSWORD = Option(
    "target-password",
    "Seen in the process list: better .pgpass or PG_FLO_TARGET_PASSWORD.",
    Type.HIDDEN,
    section="target",
    key="password",
)
TARGET_NOT_EMPTY = Option(
    "target-not-empty",
    "What to do with rows that a table holds before its copy.",
    Type.CHOICE,
    default="error",
    choices=("error", "truncate", "append"),
    section="target",
    key="not-empty",
)

PRETTY = Option("pretty", "Draw changes for people instead of JSON lines.", Type.SWITCH)
FILE_OUTPUT_DIR = Option(
    "file-output-dir",
    "Directory of the files; made if it is missing.",
    Type.PATH,
    section="file",
    key="output-dir",
)
FILE_MAX_SIZE = Option(
    "file-max-size",
    "A file ends at the first commit that makes it as large.",
    Type.SIZE,
    default="100MB",
    section="file",
    key="max-size",
    least=1,
)
FILE_ROTATE_INTERVAL = Option(
    "file-rotate-interval",
    "A file that has lines ends after this time.",
    Type.DURATION,
    default="1h",
    section="file",
    key="rotate-interval",
)
FILE_COMPRESS = Option(
    "file-compress",
    "Compression of the files.",
    Type.CHOICE,
    default="none",
    choices=("none", "gzip", "zstd"),
    section="file",
    key="compress",
)
WEBHOOK_URL = Option(
    "webhook-url",
    "Where changes are posted.",
    Type.HIDDEN,
    section="webhook",
    key="url",
    metavar="URL",
)
WEBHOOK_SECRET = Option(
    "webhook-secret",
    "Signs requests (Standard Webhooks): better PG_FLO_WEBHOOK_SECRET.",
    Type.HIDDEN,
    section="webhook",
    key="secret",
)
WEBHOOK_BATCH = Option(
    "webhook-batch",
    "Changes in a request; more than 1: as a JSON array.",
    Type.INTEGER,
    default=1,
    section="webhook",
    key="batch",
    least=1,
    most=100_000,
)
WEBHOOK_TIMEOUT = Option(
    "webhook-timeout",
    "How long one attempt may take.",
    Type.DURATION,
    default="10s",
    section="webhook",
    key="timeout",
)
WEBHOOK_CONCURRENCY = Option(
    "webhook-concurrency",
    "Requests at a time; more than 1: in order for each key only.",
    Type.INTEGER,
    default=1,
    section="webhook",
    key="concurrency",
    least=1,
    most=256,
)
TARGET_SYNC_SCHEMA = Option(
    "target-sync-schema",
    "Bring the tables and what they need from the source, too (by pg_dump).",
    Type.SWITCH,
    section="target",
    key="sync-schema",
)
SOURCE_HOST = Option("source-host", "Host or socket directory of the source.")
SOURCE_PORT = Option("source-port", "Port of the source.", Type.INTEGER, least=1, most=65535)
SOURCE_DBNAME = Option("source-dbname", "Database of the source.")
SOURCE_USER = Option("source-user", "Role that reads the source's schema.")
SOURCE_PASSWORD = Option(
    "source-password",
    "Seen in the process list: better .pgpass or PG_FLO_SOURCE_PASSWORD.",
    Type.HIDDEN,
)

RETRY_MAX_ATTEMPTS = Option(
    "retry-max-attempts",
    "Give up after so many attempts; 0: never while streaming.",
    Type.INTEGER,
    default=0,
    section="retry",
    key="max-attempts",
    least=0,
)
RETRY_INITIAL_WAIT = Option(
    "retry-initial-wait",
    "First wait; doubles from then on.",
    Type.DURATION,
    default="1s",
    section="retry",
    key="initial-wait",
)
RETRY_MAX_WAIT = Option(
    "retry-max-wait",
    "Longest wait.",
    Type.DURATION,
    default="30s",
    section="retry",
    key="max-wait",
)

TABLE = Option("table", "Table of the row, as at the source.", in_file=False)
ROW = Option("row", "The row, as a JSON object.", in_file=False, metavar="JSON")
OLD = Option(
    "old",
    "The row before the change; all columns: REPLICA IDENTITY FULL.",
    in_file=False,
    metavar="JSON",
)
OP = Option(
    "op",
    "What happened to it at the source.",
    Type.CHOICE,
    default="insert",
    choices=("insert", "update", "delete"),
    in_file=False,
)
PROMETHEUS = Option(
    "prometheus",
    "Print counts of sinks and rules in Prometheus' text format.",
    Type.SWITCH,
    in_file=False,
)
WATCH = Option("watch", "Stay, and show it again every second.", Type.SWITCH, in_file=False)
TIMEOUT = Option(
    "timeout",
    "How long to wait until the destination has what the source has.",
    Type.DURATION,
    default="5m",
)
KEEP = Option("keep", "Leave the servers up at the end, until Ctrl-C.", Type.SWITCH, in_file=False)

GLOBAL = (CONFIG, VERBOSE, QUIET, LOG_FORMAT, LOG_LEVEL, NO_COLOR, STATE_DIR)
SOURCE_SERVER = (SOURCE, HOST, PORT, DBNAME, USER, PASSWORD)
TABLE_CHOICE = (SCHEMA, TABLES, EXCLUDE_TABLES)
MODES = (STREAM, COPY, COPY_AND_STREAM)
COPYING = (MAX_COPY_WORKERS_PER_TABLE, MAX_COPY_WORKERS, RANGE_SIZE, COPY_FORMAT, SNAPSHOT_LINGER)
ENDING = (UNTIL, ONCE)
NATS_SERVER = (NATS_URL, NATS_CREDS, NATS_TLS_CA, NATS_TLS_CERT, NATS_TLS_KEY)
NATS_STORE = (STREAM_MAX_BYTES, STREAM_REPLICAS, RETAIN)
SAFETY = (CONFIRM_AFTER, BROKER_SYNC_HORIZON)
TARGET_SERVER = (
    TARGET,
    TARGET_HOST,
    TARGET_PORT,
    TARGET_DBNAME,
    TARGET_USER,
    TARGET_PASSWORD,
)
APPLYING = (
    SINK,
    RULES_CONFIG,
    ROUTING_CONFIG,
    SHARDS,
    EPOCH_BYTES,
    BATCH_SIZE,
    COPY_WRITERS,
    TARGET_NOT_EMPTY,
    TARGET_SYNC_SCHEMA,
)
SCHEMA_SOURCE = (
    SOURCE,
    SOURCE_HOST,
    SOURCE_PORT,
    SOURCE_DBNAME,
    SOURCE_USER,
    SOURCE_PASSWORD,
)
"""The source as a worker names it, for --target-sync-schema alone."""
EPOCHS = (SINK, RULES_CONFIG, ROUTING_CONFIG, EPOCH_BYTES, BATCH_SIZE)
"""What sinks have in common that are no database."""
FILES = (FILE_OUTPUT_DIR, FILE_MAX_SIZE, FILE_ROTATE_INTERVAL, FILE_COMPRESS)
WEBHOOKS = (WEBHOOK_URL, WEBHOOK_SECRET, WEBHOOK_BATCH, WEBHOOK_TIMEOUT, WEBHOOK_CONCURRENCY)
OUTLET_CARE = (PRETTY, *FILES[1:], *WEBHOOKS[1:])
"""What there is to say of sinks of JSON lines besides their destination."""
RETRIES = (RETRY_MAX_ATTEMPTS, RETRY_INITIAL_WAIT, RETRY_MAX_WAIT)

REPLICATING = (
    *SOURCE_SERVER,
    *TABLE_CHOICE,
    INSERT_ONLY_TABLES,
    *MODES,
    *COPYING,
    *ENDING,
    *NATS_SERVER,
    *NATS_STORE,
    *SAFETY,
    *RETRIES,
)
"""What a replicator reads, besides the group."""

WORKING = (
    *TARGET_SERVER,
    *APPLYING,
    *SCHEMA_SOURCE,
    PRETTY,
    *FILES,
    *WEBHOOKS,
    *ENDING,
    *NATS_SERVER,
    *NATS_STORE,
    *RETRIES,
)
"""What a worker reads, besides the group: those of all kinds."""

ALL: tuple[Option, ...] = tuple(
    dict.fromkeys(
        (
            *GLOBAL,
            GROUP,
            *REPLICATING,
            RESTART,
            TO,
            *WORKING,
            JSON,
            YES,
            TABLE,
            ROW,
            OLD,
            OP,
            WATCH,
            PROMETHEUS,
            TIMEOUT,
            KEEP,
        )
    )
)
BY_NAME = {option.name: option for option in ALL}
SECTIONS: dict[str, dict[str, Option]] = {}
for _option in ALL:
    if _option.section is not None and _option.key is not None:
        _keys = SECTIONS.setdefault(_option.section, {})
        _keys[_option.key] = _keys[_option.name] = _option
