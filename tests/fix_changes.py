"""Fixtures `changes`, `sink`, `plain`: real changes as envelopes, the PostgreSQL sink by itself.

Neighbours: `fix_postgres`. `changes` reads a slot by SQL function, so that a test decides when, and
cuts the envelopes as small as it likes. `sink` applies them in the test's own process, `plain` does
so by a role without any right that its tables do not need.
"""

from __future__ import annotations

import secrets
import struct
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from pgflo import _core
from pgflo.sinks.contract import Body
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.connection import Destination
from pgflo.sinks.postgres.prepare import prepare
from pgflo.sinks.postgres.transaction import Transactions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg
    from psycopg.rows import TupleRow
    from tests.fix_postgres import Database, Query

    from pgflo.sinks.postgres.transaction import Applied


class Changes:
    """Everything committed at the source since the fixture was set up."""

    def __init__(self, source: Database) -> None:
        self.source = source
        self.incarnation = uuid.uuid4()
        source.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        self.slot = f"changes_{source.name}"[:60]
        start = source.value(
            "SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput')",
            [self.slot],
        )
        self.start_lsn = _core.lsn_parse(start)
        self.position = (self.start_lsn, 0)
        self.end_lsn = self.start_lsn

    def frames(self) -> bytes:
        """Take what was committed since the last call, as the native pump would deliver it."""
        found = self.source.rows(
            "SELECT (lsn - '0/0')::bigint, data FROM pg_logical_slot_get_binary_changes("
            "%s, NULL, NULL, 'proto_version', '1', 'publication_names', 'everything',"
            " 'messages', 'true')",
            [self.slot],
        )
        block = bytearray()
        for lsn, data in found:
            frame = b"w" + struct.pack(">QQq", lsn, lsn, 0) + data
            block += struct.pack(">I", len(frame)) + frame
        return bytes(block)

    def envelopes(self, **limits: int) -> list[_core.Envelope]:
        """Take what was committed since the last call, as envelopes that join the last ones."""
        return self.cut([self.frames()], **limits)[0]

    def cut(self, blocks: Sequence[bytes], **limits: int) -> list[list[_core.Envelope]]:
        """Make envelopes of blocks of frames, each block by itself, which join the last ones."""
        assembler = _core.Assembler(self.incarnation.bytes, self.position, self.end_lsn, **limits)
        cut = [[*assembler.feed(block), *assembler.flush()] for block in blocks]
        for envelopes in filter(None, cut):
            self.position = (envelopes[-1].commit_lsn, envelopes[-1].ordinal)
            self.end_lsn = envelopes[-1].end_lsn
        return cut


class Sink:
    """The destination of one group, and the one connection that writes to it."""

    def __init__(
        self, target: Database, incarnation: uuid.UUID, start_lsn: int, *, user: str | None = None
    ) -> None:
        self.target = target
        self._dsn = target.dsn if user is None else target.server.dsn(target.name, user)
        self.incarnation = incarnation
        self.start_lsn = start_lsn
        self.roots: dict[int, tuple[str, str] | None] = {}
        self.conn: psycopg.Connection[TupleRow] | None = None
        self.to = self._begin()

    def _begin(self) -> Destination:
        to = Destination(self._dsn, "g", "postgres", uuid.uuid4())
        with to.connect("prepare") as conn:
            prepare(conn, to, [], self.incarnation, self.start_lsn, "error", again=False)
        return to

    def open(self) -> Transactions:
        """Connect anew and take the progress row, as a writer does when it starts."""
        self.close()
        self.conn = self.to.connect("shard0")
        return Transactions(self.conn, self.to, progress.take(self.conn, self.to), self.roots)

    def apply(self, envelopes: Sequence[_core.Envelope]) -> Applied:
        """Apply whole transactions as one step and commit."""
        transactions = self.open()
        transactions.step(bodies(envelopes))
        last = envelopes[-1]
        return transactions.commit((last.commit_lsn, last.ordinal), last.end_lsn)

    def close(self) -> None:
        """End the connection; what is not committed is rolled back."""
        if self.conn is not None:
            self.conn.close()

    def position(self) -> tuple[int, int]:
        """Return what the destination says."""
        ((lsn, ordinal),) = self.target.rows(
            "SELECT (commit_lsn - '0/0')::bigint, ordinal FROM pgflo.progress"
        )
        return int(lsn), int(ordinal)


def on_both(changes: Changes, sink: Sink, statements: Query) -> None:
    """Run the same statements on both sides, and forget the changes they make at the source."""
    changes.source.execute(statements)
    sink.target.execute(statements)
    changes.frames()


def assert_equal(changes: Changes, sink: Sink, *tables: str) -> None:
    """Compare tables row by row."""
    for table in tables:
        assert table_rows(sink.target, table) == table_rows(changes.source, table)


def bodies(envelopes: Sequence[_core.Envelope]) -> list[Body]:
    """Join parts and take the headers off, as the writer does."""
    joined: list[Body] = []
    parts: list[bytes] = []
    for envelope in envelopes:
        header = _core.read_header(envelope.data)
        parts.append(envelope.data[_core.HEADER_BYTES :])
        if header.part + 1 == header.parts:
            prev = (header.prev_commit_lsn, header.prev_ordinal)
            end = (header.commit_lsn, header.ordinal)
            is_closed = not header.transaction_open
            joined.append(
                Body(b"".join(parts), prev, end, header.end_lsn, header.changes, is_closed)
            )
            parts = []
    return joined


def table_rows(database: Database, table: str, schema: str = "public") -> list[tuple[Any, ...]]:
    """Return a table's rows as text, in order; equal rows stay apart."""
    query = sql.SQL('SELECT t::text FROM {} t ORDER BY t::text COLLATE "C"').format(
        sql.Identifier(schema, table)
    )
    return database.rows(query)


@pytest.fixture
def changes(source: Database) -> Changes:
    """Give the changes of a fresh source database."""
    return Changes(source)


@pytest.fixture
def sink(changes: Changes, target: Database) -> Iterator[Sink]:
    """Give a destination that stands at the start of `changes`."""
    made = Sink(target, changes.incarnation, changes.start_lsn)
    yield made
    made.close()


@pytest.fixture
def plain(changes: Changes, target: Database) -> Iterator[Sink]:
    """Give a sink whose role has the rights that its tables need, and no other."""
    name = f"plain_{secrets.token_hex(4)}"
    role = sql.Identifier(name)
    target.execute(
        sql.SQL("CREATE ROLE {} LOGIN").format(role),
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(target.name), role),
        sql.SQL("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {}").format(role),
    )
    made = Sink(target, changes.incarnation, changes.start_lsn, user=name)
    yield made
    made.close()
    target.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(role))
