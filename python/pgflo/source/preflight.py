"""Everything that can be known to fail before anything is created, each with its remedy.

Upstream: the source's settings and catalog. Downstream: the replicator's start and `pgflo check`.
Invariant: a preflight changes nothing; without findings, creating the group fails only for reasons
that arise afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.rows import namedtuple_row

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.source import catalog
from pgflo.source.connection import MIN_SERVER_VERSION
from pgflo.source.patterns import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from pgflo.config.settings import SourceSettings
    from pgflo.source.catalog import SourceTable, TableSet

_SERVER = """
SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_version') AS version_text,
       pg_is_in_recovery() AS in_recovery,
       current_setting('wal_level') AS wal_level,
       current_setting('max_replication_slots')::int AS max_slots,
       current_setting('max_wal_senders')::int AS max_senders,
       (SELECT count(*)::int FROM pg_catalog.pg_replication_slots WHERE slot_name <> %s) AS slots,
       (SELECT count(*)::int FROM pg_catalog.pg_stat_replication WHERE application_name <> %s)
         AS senders,
       (SELECT rolsuper OR rolreplication FROM pg_catalog.pg_roles WHERE rolname = current_user)
         OR EXISTS (SELECT FROM pg_catalog.pg_roles r
                    WHERE r.rolname = 'rds_replication' AND pg_has_role(r.oid, 'MEMBER'))
         AS may_replicate,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       current_user AS role, current_database() AS database
"""
# rds_replication: where no role may have REPLICATION, membership in this one stands for it.


async def examine(
    conn: psycopg.AsyncConnection[Any],
    settings: SourceSettings,
    *,
    slot: str | None,
) -> tuple[TableSet, list[PgfloError]]:
    """Resolve the tables and list all reasons not to start, the most basic first.

    `slot` is the slot (and application name) that the group uses or will create; None for a copy
    without a stream, which needs no right to replicate.
    """
    cursor = conn.cursor(row_factory=namedtuple_row)
    if conn.info.server_version < MIN_SERVER_VERSION:
        version = conn.info.parameter_status("server_version")
        too_old = PgfloError(errors.SOURCE_TOO_OLD, f"the source is PostgreSQL {version}")
        return catalog.TableSet((), (), ()), [too_old]
    row: Any = await (await cursor.execute(_SERVER, (slot or "", slot or ""))).fetchone()
    findings = list(_server_findings(row)) if slot else []
    tables = await catalog.resolve(conn, settings)
    findings += tables.findings
    for table in tables.tables:
        findings += _table_findings(table, row.role, streams=slot is not None)
    return tables, findings


def _server_findings(row: Any) -> Iterator[PgfloError]:  # noqa: ANN401 - a namedtuple of the query
    if row.in_recovery:
        yield PgfloError(errors.SOURCE_IN_RECOVERY, "the source is a standby")
    if row.wal_level != "logical":
        yield PgfloError(
            errors.SOURCE_WAL_LEVEL, f"the source has wal_level = {row.wal_level}, not logical"
        )
    role, database = quote(row.role), quote(row.database)
    if not row.may_replicate:
        yield PgfloError(
            errors.SOURCE_NO_REPLICATION_RIGHT,
            f"role {role} may not replicate",
            hint=f"Run `ALTER ROLE {role} REPLICATION;` as a superuser at the source.",
        )
    if not row.may_create:
        yield PgfloError(
            errors.SOURCE_NO_CREATE_RIGHT,
            f"role {role} may not create a publication in database {database}",
            hint=f"Run `GRANT CREATE ON DATABASE {database} TO {role};` at the source.",
        )
    for used, limit, setting in (
        (row.slots, row.max_slots, "max_replication_slots"),
        (row.senders, row.max_senders, "max_wal_senders"),
    ):
        if used >= limit:
            yield PgfloError(
                errors.SOURCE_NO_FREE_SLOT, f"all {limit} of {setting} are in use at the source"
            )


def _table_findings(table: SourceTable, role: str, *, streams: bool) -> Iterator[PgfloError]:
    if not table.may_read:
        yield PgfloError(
            errors.TABLE_NO_RIGHT,
            f"role {quote(role)} may not read table {table}",
            hint=f"Run `GRANT SELECT ON {table} TO {quote(role)};` at the source.",
            table=str(table),
        )
    if not streams:
        return
    if not table.may_publish:
        yield PgfloError(
            errors.TABLE_NO_RIGHT,
            f"role {quote(role)} may not publish table {table}: it does not own it",
            hint=f"Run `ALTER TABLE {table} OWNER TO {quote(role)};`, or make the role a member "
            "of the owner (`GRANT owner TO role;`).",
            table=str(table),
        )
    if not table.insert_only and not table.has_usable_identity:
        yield PgfloError(
            errors.TABLE_WITHOUT_IDENTITY,
            f"table {table} has no usable replica identity: publishing it would make its UPDATEs "
            "and DELETEs fail at the source",
            hint=f"Run `ALTER TABLE {table} REPLICA IDENTITY FULL;` (or add a primary key), or "
            f"replicate inserts and truncates only: --insert-only-tables '{table}'.",
            table=str(table),
        )
