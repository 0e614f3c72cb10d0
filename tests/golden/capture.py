"""Captures what a real walsender sends for each file in sql/, and what PostgreSQL says it means.

Run by hand (`python -m tests.golden.capture`, server binaries on PATH or in PGFLO_PG_BIN); the
result is checked in. Per scenario `<name>.sql` it writes to streams/:
  <name>.frames      `[u32 length][CopyData payload]`*, as a pump block: protocol 1, messages on
  <name>.decoded.gz  `[u32 length][line]`*, the same changes as printed by test_decoding,
                     PostgreSQL's own example decoder
Everything above the line `-- capture starts here` is set-up and stays out of the stream.
Invariant: nothing is edited after the capture.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
from psycopg import sql
from tests.oracle.copydata import Keepalive, WalData, decode_frame
from tests.oracle.wire import lengths_prefixed

HERE = Path(__file__).parent
MARK = "-- capture starts here\n"
BINARY = frozenset({"types_binary"})
NOBODY = 65534
OPTIONS = (
    "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex "
    "-c timezone=UTC -c lc_monetary=C -c client_encoding=UTF8"
)


class Server:
    """A throw-away PostgreSQL on loopback, owned by an unprivileged user when we are root."""

    def __init__(self, directory: Path) -> None:
        found = shutil.which("postgres")
        default = Path(found).resolve().parent if found else Path("/usr/lib/postgresql/15/bin")
        self.bin = Path(os.environ.get("PGFLO_PG_BIN", default))
        self.data = directory / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.user = NOBODY if os.geteuid() == 0 else None
        if self.user is not None:
            os.chown(directory, NOBODY, NOBODY)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the server's programs as the server's user."""
        subprocess.run(
            [self.bin / program, *arguments],
            check=True,
            user=self.user,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Create the cluster and start it; returns when it accepts connections."""
        self.run("initdb", "-D", str(self.data), "-U", "postgres", "--locale=C", "--encoding=UTF8")
        settings = [
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=",
            "-c wal_level=logical -c max_prepared_transactions=4 -c fsync=off",
            "-c max_replication_slots=64",
        ]
        log = self.data.parent / "log"
        self.run(
            "pg_ctl", "-w", "-D", str(self.data), "-l", str(log), "-o", " ".join(settings), "start"
        )

    def stop(self) -> None:
        """Stop it at once; nothing in it is worth keeping."""
        self.run("pg_ctl", "-D", str(self.data), "-m", "immediate", "stop")

    def conninfo(self, database: str) -> str:
        """Name a database of this server."""
        return psycopg.conninfo.make_conninfo(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, options=OPTIONS
        )

    def script(self, database: str, text: str) -> None:
        """Run SQL as psql does, each statement in its own transaction."""
        subprocess.run(
            [self.bin / "psql", "-qX", "-v", "ON_ERROR_STOP=1", self.conninfo(database)],
            input=text.encode(),
            check=True,
            stdout=subprocess.DEVNULL,
        )


def read_stream(conninfo: str, slot: str, *, until_lsn: int, binary: bool) -> list[bytes]:
    """Read CopyData payloads from a slot until the server says it is past `until_lsn`."""
    options = "proto_version '1', publication_names 'golden', messages 'true'"
    if binary:
        options += ", binary 'true'"
    command = f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({options})"
    payloads: list[bytes] = []
    connection = psycopg.connect(conninfo, autocommit=True, replication="database")
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


def capture(server: Server, name: str, text: str) -> tuple[bytes, bytes]:
    """Run one scenario in its own database; return the frames and test_decoding's account."""
    setup, _, action = text.partition(MARK)
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        server.script(name, setup)
        with psycopg.connect(server.conninfo(name), autocommit=True) as connection:
            connection.execute("create publication golden for all tables")
            for plugin in ("pgoutput", "test_decoding"):
                connection.execute(
                    "select pg_create_logical_replication_slot(%s, %s)",
                    (f"{name}_{plugin}", plugin),
                )
            server.script(name, action)
            row = connection.execute("select pg_current_wal_flush_lsn() - '0/0'::pg_lsn").fetchone()
            assert row is not None
            payloads = read_stream(
                server.conninfo(name),
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
    streams = HERE / "streams"
    streams.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pgflo-golden-") as directory:
        Path(directory).chmod(0o755)
        server = Server(Path(directory))
        server.start()
        try:
            for path in sorted((HERE / "sql").glob("*.sql")):
                if not names or path.stem in names:
                    frames, decoded = capture(server, path.stem, path.read_text())
                    (streams / f"{path.stem}.frames").write_bytes(frames)
                    (streams / f"{path.stem}.decoded.gz").write_bytes(
                        gzip.compress(decoded, mtime=0)
                    )
                    sys.stdout.write(f"{path.stem}: {len(frames)} + {len(decoded)} bytes\n")
        finally:
            server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
