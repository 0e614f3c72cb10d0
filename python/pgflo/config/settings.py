"""The settings of every process, as frozen models: the only form in which settings travel.

Upstream: `pgflo.cli` fills them from flags, environment, configuration file and defaults.
Downstream: replicator, workers and sinks take them as arguments and hand them to their children.
Invariant: a model that exists is valid on its own; connection strings are secrets and print as **.
"""

from __future__ import annotations

import os
import re
from pathlib import Path  # noqa: TC003 - pydantic reads the annotations at run time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

GROUP_PATTERN = r"[a-z0-9_]{1,40}"
"""Group names end up in names of slots (63 bytes at most), streams and key-value buckets."""

SINK_PATTERN = r"[a-z0-9_-]{1,40}"
"""Sink names end up in names of durable consumers."""

CORES = os.cpu_count() or 1

DEFAULT_STREAM_MAX_BYTES = 10 * GIB
"""Ceiling of the change stream's store. JetStream reserves it, so streams start small and grow."""

DEFAULT_RETAIN_S = 600.0
"""How long applied envelopes stay: a destination that fails over to an older copy can catch up."""

DEFAULT_RANGE_BYTES = 64 * MIB
"""Heap bytes of one range: one destination transaction, and what a crash makes us copy again."""

DEFAULT_SNAPSHOT_LINGER_S = 600.0
"""How long an unfinished copy's snapshot outlives the replicator. It keeps the source from removing
dead rows, and its locks make ALTER TABLE wait."""

DEFAULT_BROKER_SYNC_HORIZON_S = 150.0
"""JetStream syncs its files every 120 s: what it has held for longer survives a loss of power."""

DEFAULT_EPOCH_BYTES = 16 * MIB
"""Changes applied in one destination transaction when the worker is behind."""

DEFAULT_WEBHOOK_EPOCH_BYTES = KIB * 256
"""The same for webhooks, where each change takes long: what a crash makes us post again."""

DEFAULT_BATCH_ROWS = 250_000
"""Changes after which a destination transaction ends at the next commit. The more there are, the
more of them fall together into one row; memory is bounded by the bytes above."""

MOST_SHARDS = 64
"""Connections that apply changes. Each costs a process of about 40 MB."""

DEFAULT_FILE_MAX_BYTES = 100 * MIB
"""What loaders of warehouses like to take at once."""

GroupName = Annotated[str, StringConstraints(pattern=rf"^{GROUP_PATTERN}$")]
SinkName = Annotated[str, StringConstraints(pattern=rf"^{SINK_PATTERN}$")]

LSN_OR_NOW = re.compile(r"now|[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")

Until = Annotated[str, StringConstraints(pattern=rf"^({LSN_OR_NOW.pattern})$")]


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NatsSettings(Settings):
    """How to reach the broker, and how much of it a group may use."""

    url: str | None = None
    """`nats://host:port`, several separated by commas. None: the command line finds one."""
    creds: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    stream_max_bytes: int = Field(default=DEFAULT_STREAM_MAX_BYTES, ge=MIB)
    stream_replicas: int = Field(default=1, ge=1, le=5)
    retain_s: float = Field(default=DEFAULT_RETAIN_S, ge=0)


class RetrySettings(Settings):
    """How often and how long to wait before trying again what time can heal."""

    max_attempts: int = Field(default=0, ge=0)
    """0: for ever while streaming."""
    initial_wait_s: float = Field(default=1.0, gt=0)
    max_wait_s: float = Field(default=30.0, gt=0)


class SourceSettings(Settings):
    """The database that is read, and which of its tables."""

    conninfo: SecretStr
    """For libpq; what it leaves out comes from PGPASSWORD, .pgpass and the like."""
    schema_name: str = "public"
    """Schema of the table patterns that name none."""
    tables: tuple[str, ...] = ()
    """Patterns as typed; none: every table of `schema_name`."""
    exclude_tables: tuple[str, ...] = ()
    insert_only_tables: tuple[str, ...] = ()
    """Tables without a usable identity: inserts and truncates only."""


class CopySettings(Settings):
    """How the initial copy divides its work."""

    max_workers_per_table: int = Field(default=4, ge=1, le=256)
    max_workers: int = Field(default=max(2, CORES), ge=1, le=256)
    range_bytes: int = Field(default=DEFAULT_RANGE_BYTES, ge=8 * KIB)
    format: Literal["auto", "text", "binary"] = "auto"
    snapshot_linger_s: float = Field(default=DEFAULT_SNAPSHOT_LINGER_S, ge=0)


class ReplicateSettings(Settings):
    """All that a replicator needs to know."""

    group: GroupName
    mode: Literal["stream", "copy", "copy-and-stream"] = "stream"
    source: SourceSettings
    nats: NatsSettings = NatsSettings()
    copying: CopySettings = CopySettings()
    retry: RetrySettings = RetrySettings()
    confirm_after: Literal["auto", "sink", "broker"] = "auto"
    broker_sync_horizon_s: float = Field(default=DEFAULT_BROKER_SYNC_HORIZON_S, ge=0)
    until: Until | None = None
    """"now", or an LSN as PostgreSQL prints it: end when everything up to there is published."""
    once: bool = False
    """End when what was there at the start is published."""
    restart: bool = False
    """Forget the group as it is and begin anew. The command line has asked already."""
    state_dir: Path


class FileSettings(Settings):
    """Where the file sink writes, and when it begins another file."""

    output_dir: Path
    max_bytes: int = Field(default=DEFAULT_FILE_MAX_BYTES, ge=1)
    """A file ends at the first commit that makes it as large."""
    rotate_interval_s: float = Field(default=3600.0, gt=0)
    """A file with lines ends after this time."""
    compress: Literal["none", "gzip", "zstd"] = "none"


class WebhookSettings(Settings):
    """Where the webhook sink posts."""

    url: SecretStr
    """It may hold a token."""
    secret: SecretStr | None = None
    """For the signature: `whsec_` and base64, or any text."""
    batch: int = Field(default=1, ge=1, le=100_000)
    """Changes in a request; more than 1: as a JSON array."""
    timeout_s: float = Field(default=10.0, gt=0)
    """For one attempt."""
    concurrency: int = Field(default=1, ge=1, le=256)
    """Requests at a time; more than 1: in order for each key only."""


class WorkerSettings(Settings):
    """All that a worker needs to know."""

    group: GroupName
    sink: SinkName = "postgres"
    """Name under which the sink is registered with the group."""
    kind: str = "postgres"
    """postgres, stdout, file, webhook, or the name of an entry point."""
    target: SecretStr | None = None
    """Connection string of the destination, for libpq; of kind "postgres" only."""
    pretty: bool = False
    """Of kind "stdout": draw changes for people."""
    file: FileSettings | None = None
    webhook: WebhookSettings | None = None
    nats: NatsSettings = NatsSettings()
    retry: RetrySettings = RetrySettings()
    epoch_bytes: int = Field(default=DEFAULT_EPOCH_BYTES, ge=64 * KIB)
    batch_rows: int = Field(default=DEFAULT_BATCH_ROWS, ge=1)
    shards: int = Field(default=1, ge=1, le=MOST_SHARDS)
    copy_writers: int = Field(default=CORES, ge=1, le=256)
    target_not_empty: Literal["error", "truncate", "append"] = "error"
    rules_config: str | None = None
    """File with rules, or a part of one: `pgflo.yaml#rules`."""
    routing_config: str | None = None
    """File with routes, in the same way."""
    schema_source: SecretStr | None = None
    """Connection string of the source, from which the tables are brought; None: they are there."""
    once: bool = False
    until: Until | None = None
    state_dir: Path
