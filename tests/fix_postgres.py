"""PostgreSQL for tests: a server for sources, one for targets, a fresh database of each per test.

Neighbours: `pgflo.embedded.postgres`. The two servers live as long as the session (one pair for
each xdist worker) and do not sync to disk; a test that stops, kills or reconfigures a server takes
one of its own from `postgres_server`. Invariant: a database leaves with its test, and with it its
replication slots, subscriptions and connections; roles and settings of a server are a test's own to
put back.
"""

from __future__ import annotations

import re
import secrets
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, LiteralString, Protocol

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import tuple_row

from pgflo.embedded import EmbeddedPostgres, throw_away_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SESSION_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "on",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_replication_slots": "40",
    "max_wal_senders": "40",
    "max_wal_size": "4GB",
    "max_prepared_transactions": "10",
}
"""Nothing here outlives the session, so nothing has to reach the disk."""
Query = LiteralString | sql.SQL | sql.Composed


class Database:
    """One database on a server, with a connection of its own for the test's own statements."""

    def __init__(self, server: EmbeddedPostgres, name: str) -> None:
        self.server = server
        self.name = name
        self.dsn = server.dsn(name)
        self.bin_dir = server.binaries.path
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._opened = ExitStack()

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a further connection (autocommit); the end of the test closes it, if nobody did."""
        connection = psycopg.connect(self.dsn, autocommit=True, row_factory=tuple_row)
        self._opened.callback(connection.close)
        return connection

    def execute(self, *statements: Query) -> None:
        """Run statements one after the other, each its own transaction. A text may hold several."""
        for statement in statements:
            self._own().execute(statement)

    def rows(
        self, query: Query, parameters: Sequence[object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Return a query's rows."""
        return self._own().execute(query, parameters).fetchall()

    def value(self, query: Query, parameters: Sequence[object] | None = None) -> Any:  # noqa: ANN401 - whatever it asks
        """Return the one value of a query that has one row and one column."""
        ((value,),) = self.rows(query, parameters)
        return value

    def close(self) -> None:
        """Close every connection that this object opened."""
        self._opened.close()
        self._connection = None

    def _own(self) -> psycopg.Connection[tuple[Any, ...]]:
        # A test may have restarted the server since the last statement.
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = self.connect()
        return self._connection


class PostgresFactory(Protocol):
    """What `postgres_server` is: keyword arguments are server settings."""

    def __call__(self, **settings: str) -> EmbeddedPostgres:
        """Start a server with default durability that is the test's own."""
        ...


@pytest.fixture(scope="session")
def source_server() -> Iterator[EmbeddedPostgres]:
    """Serve every source database of the session."""
    with _session_server() as server:
        yield server


@pytest.fixture(scope="session")
def target_server() -> Iterator[EmbeddedPostgres]:
    """Serve every target database of the session: another server, as in real life."""
    with _session_server() as server:
        yield server


@pytest.fixture
def source(source_server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Give a fresh database on the source server."""
    with fresh_database(source_server, request.node.name) as database:
        yield database


@pytest.fixture
def target(target_server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Give a fresh database on the target server."""
    with fresh_database(target_server, request.node.name) as database:
        yield database


@pytest.fixture
def postgres_server() -> Iterator[PostgresFactory]:
    """Start servers for this test alone, to be stopped, killed and reconfigured."""
    with ExitStack() as stack:

        def start(**settings: str) -> EmbeddedPostgres:
            directory = throw_away_directory("pgflo-test-")
            server = EmbeddedPostgres(directory, settings=settings, throw_away=True)
            return stack.enter_context(server)

        yield start


@contextmanager
def fresh_database(server: EmbeddedPostgres, hint: str) -> Iterator[Database]:
    """Create a database whose name begins with `hint`; drop it with all that holds on to it."""
    stem = re.sub(r"[^a-z0-9]+", "_", hint.lower())[:40]
    database = Database(server, f"{stem}_{secrets.token_hex(4)}")
    server.create_database(database.name)
    try:
        yield database
    finally:
        database.close()
        if server.running:
            drop_database(server, database.name)


def drop_database(server: EmbeddedPostgres, name: str) -> None:
    """Drop a database: its subscriptions, its replication slots, its connections, itself."""
    with psycopg.connect(server.dsn(name), autocommit=True) as inside:
        for (subscription,) in inside.execute(
            "SELECT s.subname FROM pg_subscription s"
            " JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()"
        ).fetchall():
            named = sql.Identifier(subscription)
            inside.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(named))
            inside.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(named))
            inside.execute(sql.SQL("DROP SUBSCRIPTION {}").format(named))
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        # 14 and later: waits, up to the given milliseconds, until the backend is gone.
        connection.execute(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
            " WHERE database = %s AND active_pid IS NOT NULL",
            [name],
        )
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = %s AND NOT temporary",
            [name],
        )
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


@contextmanager
def _session_server() -> Iterator[EmbeddedPostgres]:
    directory = throw_away_directory("pgflo-test-")
    with EmbeddedPostgres(directory, settings=SESSION_SETTINGS, throw_away=True) as server:
        yield server
