"""The native pump and the Python loop deliver the same messages, whatever the server sends."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, LiteralString

import pytest
from psycopg import pq, sql
from tests.fix_pipeline import eventually
from tests.fix_slot_stream import start_copy
from tests.oracle.copydata import WalData, decode_block

from pgflo import _core

if TYPE_CHECKING:
    from tests.fix_postgres import Database
    from tests.fix_slot_stream import OpenStream, Started

BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
MIB = 1 << 20


def drained_rows(started: Started, max_bytes: int = 1 << 18) -> tuple[bytes, int]:
    """Drain a COPY to its end; give its bytes and the number of rows."""
    pieces, rows = [], 0
    while True:
        block, count, state = started.pump.drain_rows(max_bytes, 1000)
        pieces.append(block)
        rows += count
        if state == _core.PUMP_END:
            return b"".join(pieces), rows
        assert state in {_core.PUMP_MORE, _core.PUMP_IDLE}


@pytest.mark.parametrize("max_bytes", [1, 1 << 18], ids=["frame by frame", "in blocks"])
def test_a_slot_stream_holds_the_same_messages(
    source: Database, open_stream: OpenStream, max_bytes: int
) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY, body text)")
    stream = open_stream(source)
    source.execute(
        "INSERT INTO t SELECT i, repeat('x', i % 500) FROM generate_series(1, 3000) i",
        "UPDATE t SET body = NULL WHERE id % 3 = 0",
        "TRUNCATE t",
    )
    native, python = (
        [
            # The server writes the time of sending into frames, and keepalives when it likes.
            (frame.start_lsn, frame.end_lsn, frame.message)
            for block in stream.blocks(native=native, max_bytes=max_bytes)
            for frame in decode_block(block)
            if isinstance(frame, WalData)
        ]
        for native in (True, False)
    )
    assert native == python
    assert [message[:1] for _, _, message in native].count(b"I") == 3000


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("COPY t TO STDOUT", 20_000),
        ("COPY t TO STDOUT (FORMAT binary)", 20_000),
        ("COPY (SELECT * FROM t WHERE false) TO STDOUT", 0),
        ("COPY (SELECT * FROM t WHERE false) TO STDOUT (FORMAT binary)", 0),
        ("COPY (SELECT NULL FROM t) TO STDOUT", 20_000),
        ("COPY (SELECT repeat('x', 52428800)) TO STDOUT", 1),
    ],
    ids=["text", "binary", "empty", "empty binary", "rows of two letters", "row of 50 MB"],
)
def test_copy_out_gives_the_same_bytes_and_rows(
    source: Database, query: LiteralString, rows: int
) -> None:
    source.execute("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
    seen = []
    for native in (True, False):
        started = start_copy(source.connect(), query, native=native)
        data, count = drained_rows(started)
        result = started.result()
        assert result is not None
        assert result.status == pq.ExecStatus.COMMAND_OK
        seen.append((hashlib.sha256(data).hexdigest(), len(data), count))
    assert seen[0] == seen[1]
    assert seen[0][2] == rows


@BOTH
def test_an_error_of_the_server_comes_after_the_rows_before_it(
    source: Database, *, native: bool
) -> None:
    query = "COPY (SELECT 1 / (5000 - i) FROM generate_series(1, 10000) i) TO STDOUT"
    started = start_copy(source.connect(), query, native=native)
    _, rows = drained_rows(started)
    result = started.result()
    assert rows == 4999
    assert result is not None
    assert result.status == pq.ExecStatus.FATAL_ERROR
    assert result.error_field(pq.DiagnosticField.SQLSTATE) == b"22012"
    assert started.connection.execute("SELECT 1").fetchall() == [(1,)]


@BOTH
def test_a_connection_killed_in_the_middle_ends_in_a_failure(
    source: Database, *, native: bool
) -> None:
    # GIVEN a server that has more to send than all buffers hold
    query = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT"
    started = start_copy(source.connect(), query, native=native)
    block, rows, state = started.pump.drain_rows(MIB, 1000)
    assert state == _core.PUMP_MORE
    # ... and is stuck with it, so that it has no way left to say goodbye
    pid = started.connection.info.backend_pid
    stuck = "SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE pid = %s"
    eventually(lambda: source.value(stuck, [pid]), "the backend waits for us to read")
    # WHEN its backend goes
    assert source.value("SELECT pg_terminate_backend(%s, 10000)", [pid])
    # THEN what had arrived is given out, in whole rows, and then the failure
    while state in {_core.PUMP_MORE, _core.PUMP_IDLE}:
        piece, count, state = started.pump.drain_rows(MIB, 1000)
        block, rows = block + piece, rows + count
    assert state == _core.PUMP_FAILED
    assert block == (b"x" * 1000 + b"\n") * rows
    assert 0 < rows < 100_000
    assert started.connection.pgconn.status == pq.ConnStatus.BAD
    assert started.connection.pgconn.get_error_message()


@BOTH
def test_a_block_is_full_at_its_limit_or_with_one_row_above_it(
    source: Database, *, native: bool
) -> None:
    query = "COPY (SELECT repeat('x', 99) FROM generate_series(1, 1000)) TO STDOUT"
    started = start_copy(source.connect(), query, native=native)
    sizes = []
    while True:
        block, _, state = started.pump.drain_rows(250, 1000)
        sizes.append(len(block))
        if state == _core.PUMP_END:
            break
    assert set(sizes[:-1]) == {300}
    assert sum(sizes) == 100_000


@BOTH
def test_an_idle_stream_is_idle_at_once_without_a_timeout(
    source: Database, open_stream: OpenStream, *, native: bool
) -> None:
    started = open_stream(source).start(native=native)
    state = _core.PUMP_MORE
    while state != _core.PUMP_IDLE:
        _, state = started.pump.drain(MIB, 0)
    assert started.pump.drain(MIB, 0)[1] == _core.PUMP_IDLE


@BOTH
def test_a_waiting_drain_returns_with_the_first_commit(
    source: Database, open_stream: OpenStream, *, native: bool
) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    started = open_stream(source).start(native=native)
    source.execute("INSERT INTO t VALUES (1)")
    messages: list[bytes] = []
    while b"C" not in [message[:1] for message in messages]:
        # The timeout is longer than the test may run: only the arrival ends the wait.
        block, state = started.pump.drain(MIB, 1_000_000)
        assert state == _core.PUMP_IDLE
        frames = decode_block(block)
        assert frames
        messages += [frame.message for frame in frames if isinstance(frame, WalData)]
    assert [message[:1] for message in messages] == [b"B", b"R", b"I", b"C"]


@BOTH
def test_a_stream_whose_server_stops_ends_or_fails(
    source: Database, open_stream: OpenStream, *, native: bool
) -> None:
    started = open_stream(source).start(native=native)
    terminated = sql.SQL("SELECT pg_terminate_backend({}, 10000)")
    source.execute(terminated.format(started.connection.info.backend_pid))
    state = _core.PUMP_IDLE
    while state == _core.PUMP_IDLE:
        _, state = started.pump.drain(MIB, 1000)
    if state == _core.PUMP_END:
        result = started.result()
        assert result is not None
        assert result.error_field(pq.DiagnosticField.SQLSTATE) == b"57P01"
    else:
        assert state == _core.PUMP_FAILED
        assert started.connection.pgconn.status == pq.ConnStatus.BAD
