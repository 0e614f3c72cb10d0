"""Fixture `open_stream`: the slot stream of a source database, drained by a pump of one's choice.

Upstream: `fix_postgres`. Downstream: the tests of pump and replay. Invariant: a stream reads up to
what the source had written when it was asked, waits for nothing else, and confirms nothing, so that
every reader of a slot gets the same bytes.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
import pytest
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo
from tests.oracle.copydata import Keepalive, decode_block

from pgflo import _core
from pgflo.source.connection import PINNED_SETTINGS
from pgflo.source.pump import FallbackPump, native_pump

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_postgres import Database

    from pgflo.source.pump import CopyPump

INCARNATION = bytes(16)
SLOT = "stream_{}"


class Started:
    """A connection in a COPY, and what its pump says."""

    def __init__(self, connection: psycopg.Connection[Any], pump: CopyPump) -> None:
        self.connection = connection
        self.pump = pump

    def result(self) -> pq.abc.PGresult | None:
        """Collect the result with which the COPY ended."""
        result = self.connection.pgconn.get_result()
        while self.connection.pgconn.get_result():
            pass
        return result


def start_copy(
    connection: psycopg.Connection[Any], statement: str, *, native: bool = True
) -> Started:
    """Start a COPY or a replication stream with libpq's own calls and put a pump on it."""
    pgconn = connection.pgconn
    pgconn.nonblocking = 0
    pgconn.send_query(statement.encode())
    result = pgconn.get_result()
    assert result is not None
    assert result.status in {pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH}, result.error_message
    pgconn.nonblocking = 1
    pump = native_pump(pgconn) if native else FallbackPump(pgconn)
    assert pump is not None
    return Started(connection, pump)


class Stream:
    """The changes of all tables of a database since this object was made."""

    def __init__(self, database: Database, opened: ExitStack) -> None:
        self._database = database
        self._opened = opened
        self.slot = SLOT.format(database.name)[:63]
        database.execute(
            "CREATE PUBLICATION stream FOR ALL TABLES",
            sql.SQL("SELECT pg_create_logical_replication_slot({}, 'pgoutput')").format(self.slot),
        )
        self.start_lsn = _core.lsn_parse(
            database.value(
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
                [self.slot],
            )
        )

    def start(self, *, native: bool = True) -> Started:
        """Open a walsender at the slot's start."""
        options = " ".join(f"-c {name}={value}" for name, value in PINNED_SETTINGS.items())
        conninfo = make_conninfo(
            self._database.dsn, replication="database", options=options, client_encoding="UTF8"
        )
        connection = psycopg.connect(conninfo, autocommit=True)
        self._opened.callback(connection.close)
        statement = (
            f'START_REPLICATION SLOT "{self.slot}" LOGICAL {_core.lsn_format(self.start_lsn)}'
            " (proto_version '1', publication_names 'stream', messages 'true')"
        )
        return start_copy(connection, statement, native=native)

    def blocks(
        self, *, native: bool = True, max_bytes: int = 1 << 18, timeout_ms: int = 1000
    ) -> Iterator[bytes]:
        """Give blocks of frames up to what the source has written by now."""
        until = _core.lsn_parse(self._database.value("SELECT pg_current_wal_flush_lsn()::text"))
        started = self.start(native=native)
        received = 0
        while received < until:
            block, state = started.pump.drain(max_bytes, timeout_ms)
            assert state in {_core.PUMP_MORE, _core.PUMP_IDLE}
            ends = [f.end_lsn for f in decode_block(block) if isinstance(f, Keepalive)]
            received = max([received, *ends])
            yield block
        started.connection.close()

    def envelopes(self, **sizes: int) -> list[_core.Envelope]:
        """Give the same as finished envelopes."""
        assembler = _core.Assembler(INCARNATION, (self.start_lsn, 0), self.start_lsn, **sizes)
        finished = [envelope for block in self.blocks() for envelope in assembler.feed(block)]
        return finished + assembler.flush()


class OpenStream(Protocol):
    """What `open_stream` is."""

    def __call__(self, database: Database) -> Stream:
        """Make a publication and a slot in `database`."""
        ...


@pytest.fixture
def open_stream() -> Iterator[OpenStream]:
    """Open slot streams; their connections close with the test."""
    with ExitStack() as opened:
        yield lambda database: Stream(database, opened)
