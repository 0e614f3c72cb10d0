"""Captures what a real walsender sends for each file in sql/, and what PostgreSQL says it means.

Run by hand (`python -m tests.golden.capture`); the result is checked in. Per scenario `<name>.sql`
it writes to captured/:
  <name>.frames      `[u32 length][CopyData payload]`*, as a pump block: protocol 1, messages on
  <name>.decoded.gz  `[u32 length][line]`*, the same changes as printed by test_decoding,
                     PostgreSQL's own example decoder
Everything above the line `-- capture starts here` is set-up and stays out of the stream.
Invariant: nothing is edited after the capture.
"""

from __future__ import annotations

import contextlib
import gzip
import struct
import subprocess
import sys
from pathlib import Path

import psycopg
from psycopg import sql
from tests.oracle.copydata import Keepalive, WalData, decode_frame
from tests.oracle.wire import lengths_prefixed

from pgflo.embedded import EmbeddedPostgres, throw_away_directory

HERE = Path(__file__).parent
MARK = "-- capture starts here\n"
BINARY = frozenset({"types_binary"})
OPTIONS = (
    "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex "
    "-c timezone=UTC -c lc_monetary=C -c client_encoding=UTF8"
)


def run_script(server: EmbeddedPostgres, database: str, text: str) -> None:
    """Run SQL as psql does, each statement in its own transaction."""
    subprocess.run(
        [server.binaries.path / "psql", "-qX", "-v", "ON_ERROR_STOP=1", conninfo(server, database)],
        input=text.encode(),
        check=True,
        stdout=subprocess.DEVNULL,
    )


def conninfo(server: EmbeddedPostgres, database: str) -> str:
    """Name a database, with the session settings that fix how values are printed."""
    return psycopg.conninfo.make_conninfo(server.dsn(database), options=OPTIONS)


def read_stream(dsn: str, slot: str, *, until_lsn: int, binary: bool) -> list[bytes]:
    """Read CopyData payloads from a slot until the server says it is past `until_lsn`."""
    options = "proto_version '1', publication_names 'golden', messages 'true'"
    if binary:
        options += ", binary 'true'"
    command = f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({options})"
    payloads: list[bytes] = []
    connection = psycopg.connect(dsn, autocommit=True, replication="database")
    with contextlib.closing(connection):
        pgconn = connection.pgconn
        pgconn.exec_(command.encode())
        seen_lsn = 0
        ask_for_reply = struct.pack(">cQQQqB", b"r", 1, 1, 1, 0, 1)
        while True:
            size, data = pgconn.get_copy_data(0)
            if size <= 0:
                raise RuntimeError(f"the stream ended: {pgconn.error_message.decode()}")
            frame = decode_frame(bytes(data))
            # We ask until the server is there; the same answer twice says nothing new.
            if isinstance(frame, WalData) or frame.end_lsn > seen_lsn:
                payloads.append(bytes(data))
            if isinstance(frame, Keepalive):
                seen_lsn = frame.end_lsn
                if seen_lsn >= until_lsn:
                    return payloads
                pgconn.put_copy_data(ask_for_reply)
                pgconn.flush()


def capture(server: EmbeddedPostgres, name: str, text: str) -> tuple[bytes, bytes]:
    """Run one scenario in its own database; return the frames and test_decoding's account."""
    setup, _, action = text.partition(MARK)
    with psycopg.connect(conninfo(server, "postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        run_script(server, name, setup)
        with psycopg.connect(conninfo(server, name), autocommit=True) as connection:
            connection.execute("create publication golden for all tables")
            for plugin in ("pgoutput", "test_decoding"):
                connection.execute(
                    "select pg_create_logical_replication_slot(%s, %s)",
                    (f"{name}_{plugin}", plugin),
                )
            run_script(server, name, action)
            row = connection.execute("select pg_current_wal_flush_lsn() - '0/0'::pg_lsn").fetchone()
            assert row is not None
            payloads = read_stream(
                conninfo(server, name),
                f"{name}_pgoutput",
                until_lsn=int(row[0]),
                binary=name in BINARY,
            )
            lines = connection.execute(
                "select data from pg_logical_slot_peek_binary_changes(%s, null, null)",
                (f"{name}_test_decoding",),
                binary=True,
            ).fetchall()
    return lengths_prefixed(payloads), lengths_prefixed([line for (line,) in lines])


def main(names: list[str]) -> None:
    """Capture the named scenarios, or all of them."""
    captured = HERE / "captured"
    captured.mkdir(exist_ok=True)
    settings = {"max_prepared_transactions": "4", "max_replication_slots": "64"}
    with EmbeddedPostgres(throw_away_directory(), settings=settings, throw_away=True) as server:
        for path in sorted((HERE / "sql").glob("*.sql")):
            if not names or path.stem in names:
                frames, decoded = capture(server, path.stem, path.read_text())
                (captured / f"{path.stem}.frames").write_bytes(frames)
                (captured / f"{path.stem}.decoded.gz").write_bytes(gzip.compress(decoded, mtime=0))
                sys.stdout.write(f"{path.stem}: {len(frames)} + {len(decoded)} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
