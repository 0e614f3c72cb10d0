"""Which pump is opened, and what keeps the native one off a connection that it must not touch."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import pq
from structlog.testing import capture_logs
from tests.fix_slot_stream import start_copy

from pgflo import _core
from pgflo.source import pump as pump_module
from pgflo.source.pump import FallbackPump, native_pump, open_pump

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fix_postgres import Database
    from tests.fix_slot_stream import OpenStream


def loaded_libpq() -> str:
    """Give the path of the libpq that psycopg loaded."""
    (path,) = pump_module.loaded_libpqs()
    return path


async def test_every_kind_of_connection_gets_the_native_pump(source: Database) -> None:
    connection = source.connect()
    assert isinstance(open_pump(connection), _core.Pump)
    assert isinstance(open_pump(connection.pgconn), _core.Pump)
    async with await psycopg.AsyncConnection.connect(source.dsn) as asynchronous:
        assert isinstance(open_pump(asynchronous), _core.Pump)


def test_the_environment_can_ask_for_the_python_loop(
    source: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_FLO_PUMP", "python")
    assert isinstance(open_pump(source.connect()), FallbackPump)


def test_without_a_libpq_in_the_process_map_the_python_loop_is_used_and_said(
    source: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    empty = tmp_path / "maps"
    empty.touch()
    monkeypatch.setattr(pump_module, "MAPS", empty)
    with capture_logs() as logged:
        assert isinstance(open_pump(source.connect()), FallbackPump)
    assert [entry["log_level"] for entry in logged] == ["warning"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("version", "libpq has version"),
        ("socket", "the connection has socket"),
        ("path", "libpq is not loaded"),
        ("library", "libpq lacks PQ"),
        ("address", "the connection has socket -1"),
    ],
)
def test_what_does_not_fit_is_refused(source: Database, wrong: str, reason: str) -> None:
    pgconn = source.connect().pgconn
    address: int = pgconn.pgconn_ptr  # type: ignore[attr-defined]
    other_library = next(
        line.split()[5] for line in pump_module.MAPS.read_text().splitlines() if "/libc." in line
    )
    with pytest.raises(_core.CoreError, match=reason):
        _core.Pump(
            0 if wrong == "address" else address,
            pgconn.socket + (wrong == "socket"),
            {"path": "/nowhere/libpq.so.5", "library": other_library}.get(wrong, loaded_libpq()),
            pq.version() + (wrong == "version"),
            owner=pgconn,
        )


def test_a_closed_connection_is_refused_not_read(source: Database) -> None:
    connection = source.connect()
    pump = open_pump(connection)
    connection.close()
    with pytest.raises(_core.CoreError, match="closed"):
        pump.drain(1, 0)


def test_a_second_call_at_the_same_time_is_refused(
    source: Database, open_stream: OpenStream
) -> None:
    started = open_stream(source).start()
    state = _core.PUMP_MORE
    while state != _core.PUMP_IDLE:
        _, state = started.pump.drain(1 << 20, 0)
    # Two that call again and again must meet; the one that is refused ends, then so does the other.
    refused = threading.Event()
    reasons: list[str] = []

    def drain_on() -> None:
        while not refused.is_set():
            try:
                started.pump.drain(1 << 20, 100)
            except _core.CoreError as error:
                reasons.append(error.reason)
                refused.set()

    draining = [threading.Thread(target=drain_on) for _ in range(2)]
    for thread in draining:
        thread.start()
    for thread in draining:
        thread.join()
    assert set(reasons) == {"the connection is in use by another call"}


def test_a_connection_without_a_copy_fails_instead_of_waiting(source: Database) -> None:
    connection = source.connect()
    for pump in (native_pump(connection.pgconn), FallbackPump(connection.pgconn)):
        assert pump is not None
        assert pump.drain_rows(1, 1_000_000) == (b"", 0, _core.PUMP_FAILED)


def test_the_pump_keeps_the_connection_alive(source: Database) -> None:
    started = start_copy(source.connect(), "COPY (SELECT generate_series(1, 10)) TO STDOUT")
    pump = started.pump
    started.connection.close()
    del started
    with pytest.raises(_core.CoreError, match="closed"):
        pump.drain_rows(1, 0)
