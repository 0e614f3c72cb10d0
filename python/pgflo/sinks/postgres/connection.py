"""Sessions at the destination: pinned settings, names, and server errors told by kind.

Upstream: worker, writer and copy writer processes. Downstream: psycopg.
Invariants: a value written through such a session means what it meant at the source, whatever the
destination's defaults are; a commit that was answered survives a crash of the server; no connection
string appears in an error, a log or a process title.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from pgflo import errors
from pgflo.errors import PgfloError, describe
from pgflo.rules.spec import NOTHING, Spec

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from pgflo.errors import Kind

log = structlog.get_logger("pgflo.sinks.postgres")

MIN_SERVER_VERSION = 140000
"""PostgreSQL 14, as at the source."""

CONNECT_TIMEOUT_S = 10
"""Seconds to wait for one host, unless the connection string says otherwise."""

TERMINATE_WAIT_MS = 5000
"""How long a former session of ours may take to end: it only has to notice a signal."""

APPLICATION_NAME_BYTES = 63
"""What PostgreSQL keeps of an application name."""

KEEPALIVES = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""A peer that vanished without a word is noticed after a minute."""

PINNED_SETTINGS: Mapping[str, str] = {
    "client_encoding": "UTF8",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "TimeZone": "UTC",
    "lc_monetary": "C",
    "row_security": "off",
    "search_path": "",
    # Just-in-time compilation costs 60-140 ms per statement, planning anew costs it per change.
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    # A small table that is updated all the time is mostly dead rows: its key's index finds the live
    # one at once, a scan reads them all (measured: 11 against 23 µs per change of pgbench).
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    # An epoch's rows are looked up one by one, in the order of the key: never by reading the table.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # Room for the rows of an epoch, so that they are not spilled to disk on their way.
    "work_mem": "64MB",
    # A row that an application changed meanwhile is read anew, not refused.
    "default_transaction_isolation": "read committed",
    # Set per role or database, these would end a long transaction that is working as it should.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
"""Set on every session. The first seven decide what a text value means: the source reads under the
same ones. `row_security=off` turns rows that a policy hides into an error."""

TRANSACTION_TIMEOUT_SINCE = 170000
"""First server version that has `transaction_timeout`."""

GRANT_PARAMETER_SINCE = 150000
"""First server version that can grant a setting; before, only superusers may change this one."""

REFUSED_AT_CONNECT = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "does not exist",
    "is not permitted to log in",
    "permission denied for database",
)
"""What libpq's text says when trying again will not help; it gives no SQLSTATE for these."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The database that one run of a sink writes to. Travels to child processes by pickling.

    `owner` is the run: a UUID made when the worker started. It is written into the progress row, so
    that only sessions of the latest run may take that row again.
    """

    conninfo: str = field(repr=False)
    group: str
    sink: str
    owner: uuid.UUID
    through_root: frozenset[int] = frozenset()
    """Source oids of partitions that this database has not, or has with other bounds."""
    spec: Spec = NOTHING
    """Rules and routes that rows go through on their way."""
    snapshots: Mapping[int, int] = field(default_factory=dict)
    """Source oids of tables copied after the stream's start, with their consistent points."""

    def connect(self, role: str, *, warn: bool = False) -> psycopg.Connection[TupleRow]:
        """Open an autocommit session with pinned settings; `role` is unique in this run.

        Former sessions of the same run and role are ended first: after a link broke, the server may
        not have noticed, and their locks would stay. `warn` tells once what the role may not do.
        Raises `PgfloError` SINK_UNREACHABLE, SINK_AUTH, SINK_READ_ONLY, SINK_TOO_OLD or CONFIG.
        """
        params = self._parameters(role)
        try:
            conn = psycopg.Connection[TupleRow].connect(make_conninfo(**params), autocommit=True)
        except psycopg.Error as error:
            raise _connect_failure(error, params) from None
        try:
            # Statements are prepared under our own names; psycopg's automatic ones stay out.
            conn.prepare_threshold = None
            _pin(conn)
            _require_usable(conn)
            _become_replica(conn, warn=warn)
            _terminate(conn, f"{self.session_prefix}{role} ")
        except psycopg.Error as error:
            conn.close()
            raise failure(error, "cannot set the session up") from None
        except PgfloError:
            conn.close()
            raise
        return conn

    def end_former_runs(self, conn: psycopg.Connection[TupleRow]) -> int:
        """End sessions that runs of this sink before ours left behind, own copies excepted.

        Call it after the progress row was taken: whatever those sessions hold can no longer commit,
        only block. Returns how many there were.
        """
        return _terminate(conn, self.sink_prefix, spare=f" {self._run_name()} ")

    @property
    def sink_prefix(self) -> str:
        """How the application names of this sink's sessions begin, those of former runs too."""
        return f"{self._name_prefix()} "

    @property
    def session_prefix(self) -> str:
        """How the application names of this run's sessions begin."""
        return f"{self._name_prefix()} {self._run_name()} "

    def _name_prefix(self) -> str:
        digest = hashlib.blake2b(f"{self.group}/{self.sink}".encode(), digest_size=4).hexdigest()
        return f"pgflo {digest}"

    def _run_name(self) -> str:
        return self.owner.hex[:8]

    def _application_name(self, role: str) -> str:
        name = f"{self._name_prefix()} {self._run_name()} {role} {self.group}/{self.sink}"
        return name.encode()[:APPLICATION_NAME_BYTES].decode(errors="ignore")

    def _parameters(self, role: str) -> dict[str, Any]:
        try:
            given = conninfo_to_dict(self.conninfo)
        except psycopg.ProgrammingError:
            # libpq's message quotes the piece it stumbled over, which may be part of a password.
            raise PgfloError(errors.CONFIG, "the DSN of --target cannot be read") from None
        return {
            "connect_timeout": CONNECT_TIMEOUT_S,
            **KEEPALIVES,
            **given,
            "application_name": self._application_name(role),
            "client_encoding": "UTF8",
        }


def failure(error: psycopg.Error, doing: str, **context: str) -> PgfloError:
    """Tell a server error by kind, without row values. `doing` says what failed, and where."""
    diag = error.diag
    if diag.table_name:
        context.setdefault("table", f"{diag.schema_name}.{diag.table_name}")
    if diag.constraint_name:
        context.setdefault("constraint", diag.constraint_name)
    return PgfloError(kind_of(error.sqlstate), f"{doing}: {describe(error)}", **context)


def kind_of(sqlstate: str | None) -> Kind:
    """Sort an SQLSTATE into the kinds of sink failures; none means that the connection is gone."""
    if not sqlstate or sqlstate.startswith("08") or sqlstate in {"57P01", "57P02", "57P03"}:
        return errors.SINK_UNREACHABLE
    exact = {
        "25006": errors.SINK_READ_ONLY,
        "42501": errors.SINK_PRIVILEGE,
        "42P01": errors.SINK_TABLE_MISSING,
        "3F000": errors.SINK_TABLE_MISSING,
        "42703": errors.SINK_COLUMN_MISSING,
        "55P03": errors.SINK_CONTENDED,
        "57014": errors.SINK_CONTENDED,
    }
    if sqlstate in exact:
        return exact[sqlstate]
    if sqlstate.startswith("40"):  # serialization, deadlock
        return errors.SINK_CONTENDED
    # 53: resources; 57: operator; 58: operating system.
    if sqlstate.startswith(("53", "57", "58")):
        return errors.SINK_INTERRUPTED
    return errors.SINK_REFUSED


def _pin(conn: psycopg.Connection[TupleRow]) -> None:
    settings = dict(PINNED_SETTINGS)
    if conn.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
        settings["transaction_timeout"] = "0"
    conn.execute(
        "SELECT pg_catalog.set_config(name, value, false)"
        " FROM unnest(%s::text[], %s::text[]) AS pinned(name, value)",
        (list(settings), list(settings.values())),
    )
    # Stronger settings (a synchronous standby) stay; "off" would acknowledge what a crash forgets.
    conn.execute(
        "SELECT pg_catalog.set_config('synchronous_commit', 'local', false)"
        " WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"
    )


def _require_usable(conn: psycopg.Connection[TupleRow]) -> None:
    version = conn.info.server_version
    if version < MIN_SERVER_VERSION:
        raise PgfloError(errors.SINK_TOO_OLD, f"the destination runs PostgreSQL {version // 10000}")
    row = conn.execute("SELECT pg_catalog.current_setting('transaction_read_only')").fetchone()
    if row == ("on",):
        raise PgfloError(errors.SINK_READ_ONLY, "the destination does not accept writes")


def _become_replica(conn: psycopg.Connection[TupleRow], *, warn: bool) -> None:
    """Switch triggers and foreign-key checks off, as native replication does, if the role may."""
    try:
        conn.execute("SELECT pg_catalog.set_config('session_replication_role', 'replica', false)")
    except psycopg.errors.InsufficientPrivilege:
        if not warn:
            return
        can_be_granted = conn.info.server_version >= GRANT_PARAMETER_SINCE
        statement = sql.SQL(
            "GRANT SET ON PARAMETER session_replication_role TO {}"
            if can_be_granted
            else "ALTER ROLE {} SUPERUSER"
        ).format(sql.Identifier(conn.info.user))
        log.warning(
            "the destination's triggers and foreign keys act on replicated rows: the role may not"
            " switch them off",
            grant=statement.as_string(conn),
        )


def is_replica(conn: psycopg.Connection[TupleRow]) -> bool:
    """Whether triggers and foreign keys are silent in this session of `Destination.connect`."""
    row = conn.execute(
        "SELECT pg_catalog.current_setting('session_replication_role') = 'replica'"
    ).fetchone()
    return row == (True,)


def _terminate(conn: psycopg.Connection[TupleRow], prefix: str, *, spare: str | None = None) -> int:
    """End other sessions of our own role whose application name starts with `prefix`."""
    found = conn.execute(
        "SELECT pg_catalog.pg_terminate_backend(pid, %(wait)s) FROM pg_catalog.pg_stat_activity"
        " WHERE pg_catalog.starts_with(application_name, %(prefix)s)"
        " AND (%(spare)s::text IS NULL OR pg_catalog.strpos(application_name, %(spare)s) = 0)"
        " AND usename = CURRENT_USER AND pid <> pg_catalog.pg_backend_pid()",
        {"wait": TERMINATE_WAIT_MS, "prefix": prefix, "spare": spare},
    )
    return found.rowcount


def _connect_failure(error: psycopg.Error, params: Mapping[str, Any]) -> PgfloError:
    where = f"{params.get('host') or 'local socket'}:{params.get('port') or 5432}"
    text = " ".join(str(error).split())
    password = params.get("password")
    if password and str(password) in text:
        text = "the server's answer quotes the password and is left out"
    refused = any(phrase in text for phrase in REFUSED_AT_CONNECT)
    kind = errors.SINK_AUTH if refused else errors.SINK_UNREACHABLE
    return PgfloError(kind, f"cannot connect to the destination at {where}: {text}")
