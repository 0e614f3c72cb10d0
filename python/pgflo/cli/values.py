"""The settings of replicator and worker, out of one call's options.

Upstream: `parse.Values`. Downstream: `pgflo.config.settings`, whose models every package takes.
Invariant: what libpq finds by itself (PGPASSWORD, .pgpass, service files, sslmode) is left to it: a
connection string holds only what the user told us.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pgflo.config import options as o
from pgflo.config import settings as s
from pgflo.errors import USAGE, PgfloError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

    from pgflo.cli.parse import Values

T = TypeVar("T")
Mode = Literal["stream", "copy", "copy-and-stream"]


def state_dir(values: Values) -> Path:
    """Give the directory in which groups keep their embedded brokers."""
    given = values.get(o.STATE_DIR)
    if given is not None:
        return Path(given)
    import platformdirs

    return platformdirs.user_state_path("pgflo")


def source_conninfo(values: Values) -> SecretStr:
    """Give the connection string of the source. Raises USAGE when no database is named anywhere."""
    parts = (o.HOST, o.PORT, o.DBNAME, o.USER, o.PASSWORD)
    return _conninfo(values, o.SOURCE, parts, "source")


def target_conninfo(values: Values) -> SecretStr:
    """Give the connection string of the destination. Raises USAGE when no database is named."""
    parts = (o.TARGET_HOST, o.TARGET_PORT, o.TARGET_DBNAME, o.TARGET_USER, o.TARGET_PASSWORD)
    return _conninfo(values, o.TARGET, parts, "destination")


def schema_source(values: Values) -> SecretStr:
    """Give the connection string of the source as a worker names it. Raises USAGE without any.

    A file that serves the replicator too has it under the replicator's keys.
    """
    parts = (o.SOURCE_HOST, o.SOURCE_PORT, o.SOURCE_DBNAME, o.SOURCE_USER, o.SOURCE_PASSWORD)
    shared = (o.HOST, o.PORT, o.DBNAME, o.USER, o.PASSWORD)
    fallback = {}
    if values.config is not None and not any(map(values.is_set, (o.SOURCE, *parts))):
        fallback = {
            part: values.config.values[option.name]
            for part, option in zip(parts, shared, strict=True)
            if option.name in values.config.values
        }
    return _conninfo(values, o.SOURCE, parts, "source", fallback)


def _conninfo(
    values: Values,
    whole: o.Option,
    parts: tuple[o.Option, ...],
    which: str,
    fallback: Mapping[o.Option, object] | None = None,
) -> SecretStr:
    import os

    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from pydantic import SecretStr

    names = ("host", "port", "dbname", "user", "password")
    given = values.get(whole)
    rank = values.rank(whole)
    # A single part set in a stronger place (a flag over the file's DSN) replaces that part alone.
    single = {
        name: values.get(option)
        for name, option in zip(names, parts, strict=True)
        if values.is_set(option) and values.rank(option) >= rank
    }
    for name, option in zip(names, parts, strict=True):
        if fallback and option in fallback:
            single[name] = fallback[option]
    if given is None and "dbname" not in single and not _libpq_knows_database():
        flags = f"{whole.flag} or {parts[2].flag}"
        raise PgfloError(
            USAGE,
            f"the {which} database is not named: {flags} is missing",
            hint=f"Add {whole.flag} postgres://USER@HOST/DBNAME, or set {whole.env}.",
        )
    try:
        known = conninfo_to_dict(given or "")
        conninfo = make_conninfo("", **{**known, **single})
    except psycopg.Error:
        # libpq's message quotes the string, with the password in it.
        raise PgfloError(
            USAGE,
            f"{values.origin(whole)} is no connection string that libpq understands",
            hint=f"Write it as {whole.flag} postgres://USER@HOST:PORT/DBNAME.",
        ) from None
    if os.environ.get("PGAPPNAME") is None and "application_name" not in known:
        conninfo = make_conninfo(conninfo, fallback_application_name="pgflo")
    return SecretStr(conninfo)


def _libpq_knows_database() -> bool:
    import os

    return bool(os.environ.get("PGDATABASE") or os.environ.get("PGSERVICE"))


def mode(values: Values) -> Mode:
    """Give the mode that was set in the strongest place. Raises USAGE when two were set there."""
    modes: dict[o.Option, Mode] = {
        o.STREAM: "stream",
        o.COPY: "copy",
        o.COPY_AND_STREAM: "copy-and-stream",
    }
    wanted = [option for option in modes if values.get(option)]
    if not wanted:
        return "stream"
    strongest = max(values.rank(option) for option in wanted)
    chosen = [option for option in wanted if values.rank(option) == strongest]
    if len(chosen) > 1:
        names = " and ".join(values.origin(option) for option in chosen)
        raise PgfloError(USAGE, f"{names} exclude each other", hint="Keep one of the flags.")
    return modes[chosen[0]]


def nats(values: Values) -> s.NatsSettings:
    """Give the broker's settings; `url` may still be None."""
    return s.NatsSettings(
        url=values.get(o.NATS_URL),
        creds=values.get(o.NATS_CREDS),
        tls_ca=values.get(o.NATS_TLS_CA),
        tls_cert=values.get(o.NATS_TLS_CERT),
        tls_key=values.get(o.NATS_TLS_KEY),
        stream_max_bytes=_or(values, o.STREAM_MAX_BYTES, s.DEFAULT_STREAM_MAX_BYTES),
        stream_replicas=_or(values, o.STREAM_REPLICAS, 1),
        retain_s=_or(values, o.RETAIN, s.DEFAULT_RETAIN_S),
    )


def _or(values: Values, option: o.Option, default: T) -> T:
    value: T | None = values.get(option)
    return default if value is None else value


def retry(values: Values) -> s.RetrySettings:
    """Give how often and how long to wait."""
    return s.RetrySettings(
        max_attempts=values.get(o.RETRY_MAX_ATTEMPTS),
        initial_wait_s=values.get(o.RETRY_INITIAL_WAIT),
        max_wait_s=values.get(o.RETRY_MAX_WAIT),
    )


def replicate(values: Values) -> s.ReplicateSettings:
    """Give all that a replicator needs. Raises USAGE for what is missing."""
    return s.ReplicateSettings(
        group=values.get(o.GROUP),
        mode=mode(values),
        source=s.SourceSettings(
            conninfo=source_conninfo(values),
            schema_name=values.get(o.SCHEMA),
            tables=values.get(o.TABLES) or (),
            exclude_tables=values.get(o.EXCLUDE_TABLES) or (),
            insert_only_tables=values.get(o.INSERT_ONLY_TABLES) or (),
        ),
        nats=nats(values),
        copying=s.CopySettings(
            max_workers_per_table=values.get(o.MAX_COPY_WORKERS_PER_TABLE),
            max_workers=values.get(o.MAX_COPY_WORKERS),
            range_bytes=values.get(o.RANGE_SIZE),
            format=values.get(o.COPY_FORMAT),
            snapshot_linger_s=values.get(o.SNAPSHOT_LINGER),
        ),
        retry=retry(values),
        confirm_after=values.get(o.CONFIRM_AFTER),
        broker_sync_horizon_s=values.get(o.BROKER_SYNC_HORIZON),
        until=values.get(o.UNTIL),
        once=values.get(o.ONCE),
        restart=bool(values.get(o.RESTART)),
        state_dir=state_dir(values),
    )


def worker(values: Values, kind: str = "postgres") -> s.WorkerSettings:
    """Give all that a worker needs. Raises USAGE for what is missing."""
    is_postgres = kind == "postgres"
    epoch_bytes = values.get(o.EPOCH_BYTES)
    if kind == "webhook" and not values.is_set(o.EPOCH_BYTES):
        epoch_bytes = s.DEFAULT_WEBHOOK_EPOCH_BYTES
    return s.WorkerSettings(
        group=values.get(o.GROUP),
        sink=values.get(o.SINK) or kind,
        kind=kind,
        target=target_conninfo(values) if is_postgres else None,
        pretty=bool(values.get(o.PRETTY)),
        file=_file(values) if kind == "file" else None,
        webhook=_webhook(values) if kind == "webhook" else None,
        nats=nats(values),
        retry=retry(values),
        epoch_bytes=epoch_bytes,
        batch_rows=values.get(o.BATCH_SIZE),
        rules_config=values.get(o.RULES_CONFIG),
        routing_config=values.get(o.ROUTING_CONFIG),
        shards=values.get(o.SHARDS) if is_postgres else 1,
        copy_writers=values.get(o.COPY_WRITERS) if is_postgres else 1,
        target_not_empty=values.get(o.TARGET_NOT_EMPTY) if is_postgres else "error",
        schema_source=schema_source(values)
        if is_postgres and values.get(o.TARGET_SYNC_SCHEMA)
        else None,
        once=values.get(o.ONCE),
        until=values.get(o.UNTIL),
        state_dir=state_dir(values),
    )


def _file(values: Values) -> s.FileSettings:
    return s.FileSettings(
        output_dir=Path(_required(values, o.FILE_OUTPUT_DIR)),
        max_bytes=values.get(o.FILE_MAX_SIZE),
        rotate_interval_s=values.get(o.FILE_ROTATE_INTERVAL),
        compress=values.get(o.FILE_COMPRESS),
    )


def _webhook(values: Values) -> s.WebhookSettings:
    return s.WebhookSettings(
        url=_required(values, o.WEBHOOK_URL),
        secret=values.get(o.WEBHOOK_SECRET),
        batch=values.get(o.WEBHOOK_BATCH),
        timeout_s=values.get(o.WEBHOOK_TIMEOUT),
        concurrency=values.get(o.WEBHOOK_CONCURRENCY),
    )


def _required(values: Values, option: o.Option) -> Any:  # noqa: ANN401 - the type is the option's
    value = values.get(option)
    if value is None:
        raise PgfloError(
            USAGE, f"{option.flag} is missing", hint=f"Add {option.flag}, or set {option.env}."
        )
    return value
