"""One transaction of many rows: bounded memory, all or nothing at the destination.

Downstream: `contenders.py`. pgflo runs when the source commits; the time ends when the destination
has committed. The source bears one second of silence, then it ends the connection; whether it held
is told. Invariant: a reader that asks all the while for keys spread over the whole transaction sees
none of them or all; with more shards than one that is not promised, and only the end is looked at.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg import sql

from benches.e2e.bed import Bed, assert_equal, wait_for
from benches.e2e.contenders import Pgflo, has_ended
from benches.e2e.observe import Piece, watched_pgflo

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

LIMIT_S = 1800.0
SOURCE_DB, TARGET_DB = "bigtx", "bigtx_pgflo"
TABLE = "big"
DEFINITION = "CREATE TABLE big (id bigint PRIMARY KEY, n int NOT NULL)"
FILL = "INSERT INTO big SELECT i, i % 1000 FROM generate_series(1::bigint, {rows}) i"
WAL_SENDER_TIMEOUT = "1s"
LOOKED_FOR = 1000
"""Keys that the reader asks for: their rows come in the first step of the transaction, in the last,
and in those between."""
READER_PAUSE_S = 0.1


@dataclass
class Reader:
    """An application at the destination: how many of the looked-for rows it saw, each time."""

    looks: int = 0
    partial: set[int] = field(default_factory=set)
    """Counts that a reader must never see."""
    has_all: bool = False

    def look(self, conn: psycopg.Connection, rows: int, done: threading.Event) -> None:
        """Ask again and again until `done`, and once more then."""
        step = max(1, rows // LOOKED_FOR)
        keys = sorted({1, rows, *range(step, rows + 1, step)})
        conn.execute("SET enable_seqscan = off")
        is_last = False
        while not is_last:
            is_last = done.wait(READER_PAUSE_S)
            row = conn.execute(
                "SELECT count(*) FROM big WHERE id = ANY(%s)", (keys,), prepare=True
            ).fetchone()
            assert row is not None
            self.looks += 1
            self.has_all = row[0] == len(keys)
            if row[0] not in {0, len(keys)}:
                self.partial.add(int(row[0]))


@contextlib.contextmanager
def _reading(conn: psycopg.Connection, rows: int) -> Iterator[Reader]:
    reader, done = Reader(), threading.Event()
    thread = threading.Thread(target=reader.look, args=(conn, rows, done), daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        done.set()
        thread.join()


def _fresh_tables(bed: Bed) -> None:
    bed.recreate(bed.source, SOURCE_DB)
    bed.recreate(bed.target, TARGET_DB)
    for server, dbname in ((bed.source, SOURCE_DB), (bed.target, TARGET_DB)):
        with bed.connect(server, dbname) as conn:
            conn.execute(DEFINITION)
            conn.execute("CHECKPOINT")
    with bed.connect(bed.source, SOURCE_DB) as conn:
        conn.execute(
            sql.SQL("ALTER DATABASE {} SET wal_sender_timeout = {}").format(
                sql.Identifier(SOURCE_DB), sql.Literal(WAL_SENDER_TIMEOUT)
            )
        )


def _write(conn: psycopg.Connection, rows: int) -> int:
    """Run the transaction; return an LSN that only its commit lies beyond."""
    with conn.transaction():
        conn.execute(sql.SQL(FILL).format(rows=sql.Literal(rows)))
        row = conn.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
    assert row is not None
    return int(row[0])


def _walsender(conn: psycopg.Connection) -> int:
    """Give the process that serves pgflo: after a broken connection it is another one."""
    row = conn.execute(
        "SELECT active_pid FROM pg_replication_slots WHERE database = %s", (SOURCE_DB,)
    ).fetchone()
    assert row is not None
    return int(row[0] or 0)


@dataclass(frozen=True)
class Outcome:
    """How the transaction arrived."""

    piece: Piece
    looks: int
    """Of the reader."""
    connection_held: bool
    """One walsender served it from begin to end."""


def run(bed: Bed, rows: int) -> Outcome:
    """Stream the transaction, and compare both sides."""
    _fresh_tables(bed)
    ours = Pgflo(bed, "bigtx", SOURCE_DB, TARGET_DB)
    with (
        bed.connect(bed.source, SOURCE_DB) as source,
        bed.connect(bed.target, TARGET_DB) as target,
    ):
        with ours.running("--stream", "--tables", TABLE) as processes:
            wait_for(
                lambda: ours.applied_lsn(target) > 0 or has_ended(processes),
                limit_s=60,
                what="pgflo's start",
            )
            with (
                bed.connect(bed.target, TARGET_DB) as application,
                watched_pgflo(ours, processes, source, target, application) as usage,
                _reading(application, rows) as reader,
            ):
                served_by = _walsender(source)
                last_lsn = _write(source, rows)
                started = time.monotonic()
                wait_for(
                    lambda: ours.applied_lsn(target) > last_lsn or has_ended(processes),
                    limit_s=LIMIT_S,
                    what="pgflo's commit of the transaction",
                )
                elapsed = time.monotonic() - started
                connection_held = _walsender(source) == served_by
        ours.forget()
    assert bed.shards > 1 or not reader.partial, (
        f"a reader saw part of the transaction: {reader.partial}"
    )
    assert reader.has_all, "the reader does not see the transaction at its end"
    assert_equal(bed, SOURCE_DB, TARGET_DB, (TABLE,))
    return Outcome(Piece(elapsed, usage.costs()), reader.looks, connection_held)
