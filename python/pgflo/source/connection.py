"""Opening sessions at the source: pinned settings, and connection failures told by kind.

Upstream: a conninfo string that may hold a password. Downstream: every module of this package, and
those that read the source for other reasons (compare, schema).
Invariant: a value that is read through two of these sessions has the same text in both, and no
error raised here carries the conninfo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgflo import errors
from pgflo.errors import PgfloError, describe

if TYPE_CHECKING:
    from psycopg.rows import TupleRow

MIN_SERVER_VERSION = 140000
"""PostgreSQL 14: the first with TID range scans and with `messages` in pgoutput."""

CONNECT_TIMEOUT_S = 10
"""Seconds until a host counts as unreachable, unless the conninfo says otherwise."""

PINNED_SETTINGS = {
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "TimeZone": "UTC",
    "lc_monetary": "C",
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
"""Session settings, given as startup options so that they also hold in a walsender.

The first seven decide the text of values; an interval read under another `intervalstyle` is another
value. `row_security=off` turns rows hidden by a policy into an error. The timeouts may be set per
role or database at the source, and would end a long copy."""

_KEEPALIVES = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}

_REFUSED = (
    "password authentication failed",
    "no password supplied",
    "authentication failed",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "does not exist",
    "is not permitted to log in",
    "permission denied for database",
)
"""What libpq says when trying again will not help; it gives no SQLSTATE for these."""


_KINDS = {
    "53400": errors.SOURCE_NO_FREE_SLOT,  # all slots, or all walsenders, are in use
    "55006": errors.SLOT_ACTIVE,  # somebody else has just taken the slot
    "55000": errors.SLOT_LOST,  # the slot was invalidated
    "58P01": errors.SLOT_LOST,  # WAL that it needed is gone
    "42704": errors.PUBLICATION_MISSING,  # dropped while we stream
}
"""What a walsender's refusals mean, by SQLSTATE. The checks before it find most of them earlier."""


def application_name(group: str, part: str = "") -> str:
    """Name sessions of a group so that `pg_stat_activity` tells whose they are."""
    return f"pgflo_{group}{' ' + part if part else ''}"


async def connect(
    conninfo: str, *, purpose: str, replication: bool = False
) -> psycopg.AsyncConnection[TupleRow]:
    """Open an autocommit session with the pinned settings.

    `purpose` becomes the application name. With `replication`, the session is a walsender of the
    database and speaks the simple query protocol only. Raises `PgfloError` of kind SOURCE_DSN,
    SOURCE_AUTH or SOURCE_UNREACHABLE.
    """
    params = _parameters(conninfo, purpose, replication=replication)
    try:
        return await psycopg.AsyncConnection.connect(make_conninfo(**params), autocommit=True)
    except psycopg.Error as error:
        raise _refusal(error, params) from None


def connect_sync(conninfo: str, *, purpose: str) -> psycopg.Connection[TupleRow]:
    """Open the same session for code without an event loop."""
    params = _parameters(conninfo, purpose, replication=False)
    try:
        return psycopg.Connection.connect(make_conninfo(**params), autocommit=True)
    except psycopg.Error as error:
        raise _refusal(error, params) from None


def failure(error: psycopg.Error, doing: str) -> PgfloError:
    """Tell a server error by kind: a lost connection can heal, most others cannot."""
    kind = _KINDS.get(error.sqlstate or "", errors.SOURCE_FAILED)
    if is_disconnect(error):
        kind = errors.SOURCE_UNREACHABLE
    return PgfloError(kind, f"{doing}: {describe(error)}")


def is_disconnect(error: psycopg.Error) -> bool:
    """Whether the session is gone, for a reason that says nothing against opening another."""
    state = error.sqlstate
    if state is None:
        # A result that libpq made up for a broken connection becomes a bare DatabaseError.
        lost = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        return lost or type(error) is psycopg.DatabaseError
    # 08: connection exception; 57P: shutdown, crash, cannot connect now; 53300: no free connection.
    return state.startswith(("08", "57P")) or state == "53300"


def _parameters(conninfo: str, purpose: str, *, replication: bool) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        # libpq's message quotes the piece it stumbled over, which may be part of a password.
        raise PgfloError(errors.SOURCE_DSN, "the source's DSN cannot be read") from None
    # An unescaped / or @ in the password of a URL shifts what follows into host and port.
    ports = str(given.get("port") or "5432").split(",")
    if "@" in str(given.get("host") or "") or not all(not port or port.isdigit() for port in ports):
        raise PgfloError(errors.SOURCE_DSN, "host or port in the source's DSN makes no sense")
    pinned = " ".join(f"-c {name}={value}" for name, value in PINNED_SETTINGS.items())
    defaults: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S, **_KEEPALIVES}
    params: dict[str, Any] = {
        **defaults,
        **given,
        "options": f"{given.get('options') or ''} {pinned}".strip(),
        "application_name": purpose,
        "client_encoding": "UTF8",
    }
    if replication:
        params["replication"] = "database"
    return params


def _refusal(error: psycopg.Error, params: dict[str, Any]) -> PgfloError:
    where = f"{params.get('host') or 'local socket'}:{params.get('port') or 5432}"
    text = " ".join(str(error).split())
    password = params.get("password")
    if password and str(password) in text:
        text = "the server's answer quotes the password and is left out"
    refused = any(phrase in text for phrase in _REFUSED)
    kind = errors.SOURCE_AUTH if refused else errors.SOURCE_UNREACHABLE
    return PgfloError(kind, f"cannot connect to the source at {where}: {text}")
