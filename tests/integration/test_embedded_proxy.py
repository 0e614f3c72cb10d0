"""The fixtures that other tests rely on: the proxy's faults happen, and nothing is left over."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import nats
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.fix_nats import delete_all_streams
from tests.fix_postgres import fresh_database

from pgflo.embedded.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_nats import NatsFactory
    from tests.fix_postgres import Database, PostgresFactory
    from tests.fix_proxy import ProxyFactory, TcpProxy

WITHIN_S = 10.0


class Echo:
    """A server that sends back what it gets, one connection after the other."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.got = bytearray()
        self.news = threading.Condition()
        self.resets = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                try:
                    while block := connection.recv(65536):
                        with self.news:
                            self.got += block
                            self.news.notify_all()
                        connection.sendall(block)
                except ConnectionResetError:
                    with self.news:
                        self.resets += 1
                        self.news.notify_all()

    def wait_for(self, data: bytes) -> None:
        """Return once exactly this has arrived since the start."""
        with self.news:
            assert self.news.wait_for(lambda: bytes(self.got) == data, WITHIN_S), self.got

    def close(self) -> None:
        """Stop listening."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(WITHIN_S)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def dial(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=WITHIN_S)


def first_byte(proxy: TcpProxy) -> bytes:
    """Connect and read; a reset shows in either, whichever it is faster than."""
    with closing(dial(proxy)) as connection:
        return connection.recv(1)


def read(connection: socket.socket, size_bytes: int) -> bytes:
    got = bytearray()
    while len(got) < size_bytes and (block := connection.recv(65536)):
        got += block
    return bytes(got)


def test_bytes_pass_unchanged_and_an_end_of_one_way_is_passed_on(
    echo: Echo, tcp_proxy: ProxyFactory
) -> None:
    data = bytes(range(256)) * 40_000
    with closing(dial(tcp_proxy("127.0.0.1", echo.port))) as connection:
        writer = threading.Thread(target=connection.sendall, args=[data])
        writer.start()
        assert read(connection, len(data)) == data
        writer.join()
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert echo.resets == 0


def test_a_cut_resets_both_sides_and_the_next_connection_is_served(
    echo: Echo, tcp_proxy: ProxyFactory
) -> None:
    proxy = tcp_proxy("127.0.0.1", echo.port)
    with closing(dial(proxy)) as connection:
        connection.sendall(b"one")
        assert read(connection, 3) == b"one"
        proxy.cut()
        assert proxy.connections == 0
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with closing(dial(proxy)) as connection:
        connection.sendall(b"two")
        assert read(connection, 3) == b"two"  # so the server is through with the first
    assert echo.resets == 1


def test_held_responses_are_kept_back_and_come_in_order_after_resume(
    echo: Echo, tcp_proxy: ProxyFactory
) -> None:
    proxy = tcp_proxy("127.0.0.1", echo.port)
    with closing(dial(proxy)) as connection:
        connection.sendall(b"open")
        assert read(connection, 4) == b"open"
        proxy.hold_responses()
        connection.sendall(b"abc")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        echo.wait_for(b"openabc")
        connection.settimeout(WITHIN_S)
        connection.sendall(b"def")
        proxy.resume()
        assert read(connection, 6) == b"abcdef"


def test_held_requests_that_are_cut_never_reach_the_server(
    echo: Echo, tcp_proxy: ProxyFactory
) -> None:
    proxy = tcp_proxy("127.0.0.1", echo.port)
    with closing(dial(proxy)) as connection:
        connection.sendall(b"open")
        assert read(connection, 4) == b"open"
        proxy.hold_requests()
        connection.sendall(b"lost")
        proxy.cut()
        proxy.resume()
    with closing(dial(proxy)) as connection:
        connection.sendall(b"kept")
        assert read(connection, 4) == b"kept"
    echo.wait_for(b"openkept")


def test_a_refused_connection_is_reset_until_resume(echo: Echo, tcp_proxy: ProxyFactory) -> None:
    proxy = tcp_proxy("127.0.0.1", echo.port)
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        first_byte(proxy)
    proxy.resume()
    with closing(dial(proxy)) as connection:
        connection.sendall(b"open")
        assert read(connection, 4) == b"open"


def test_a_delay_is_added_each_way_without_limiting_throughput(
    echo: Echo, tcp_proxy: ProxyFactory
) -> None:
    proxy = tcp_proxy("127.0.0.1", echo.port)
    proxy.delay_ms = 100
    data = bytes(3_000_000)  # 46 blocks: one at a time they would take 9 s
    with closing(dial(proxy)) as connection:
        began = time.monotonic()
        writer = threading.Thread(target=connection.sendall, args=[data])
        writer.start()
        assert read(connection, len(data)) == data
        writer.join()
        assert 0.2 <= time.monotonic() - began < 5


def test_a_connection_to_a_server_that_is_down_is_reset(tcp_proxy: ProxyFactory) -> None:
    proxy = tcp_proxy("127.0.0.1", free_port())
    with pytest.raises(ConnectionResetError):
        first_byte(proxy)


def test_the_answer_of_a_commit_gets_lost_and_the_row_is_there(
    source: Database, tcp_proxy: ProxyFactory
) -> None:
    source.execute("CREATE TABLE t (n int)")
    proxy = tcp_proxy("127.0.0.1", source.server.port)
    dsn = make_conninfo(source.dsn, port=proxy.port)
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        lost = proxy.drop_responses_matching(lambda block: b"COMMIT" in block)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        assert lost.is_set()
    assert source.rows("SELECT n FROM t") == [(1,)]
    with psycopg.connect(dsn) as connection:  # it happens once
        connection.execute("INSERT INTO t VALUES (2)")
    assert source.rows("SELECT n FROM t ORDER BY n") == [(1,), (2,)]


def test_a_statement_gets_lost_before_the_server_sees_it(
    source: Database, tcp_proxy: ProxyFactory
) -> None:
    source.execute("CREATE TABLE t (n int)")
    proxy = tcp_proxy("127.0.0.1", source.server.port)
    dsn = make_conninfo(source.dsn, port=proxy.port)
    with psycopg.connect(dsn, autocommit=True) as connection:
        lost = proxy.drop_requests_matching(lambda block: b"INSERT" in block)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO t VALUES (1)")
        assert lost.is_set()
    assert source.rows("SELECT n FROM t") == []


async def test_the_answer_of_a_publish_gets_lost_and_the_message_is_stored(
    nats_url: str, tcp_proxy: ProxyFactory
) -> None:
    direct = await nats.connect(nats_url)
    await direct.jetstream().add_stream(name="s", subjects=["s"])
    proxy = tcp_proxy("127.0.0.1", int(nats_url.rpartition(":")[2]))
    client = await nats.connect(f"nats://127.0.0.1:{proxy.port}", allow_reconnect=False)
    lost = proxy.drop_responses_matching(lambda block: b'"stream":"s"' in block)
    with pytest.raises((nats.errors.Error, asyncio.CancelledError)):
        await client.jetstream().publish("s", b"stored", timeout=1)
    assert lost.wait(WITHIN_S)
    assert (await direct.jetstream().get_last_msg("s", "s")).data == b"stored"
    await client.close()
    await direct.close()


def test_a_database_leaves_with_its_slots_and_whoever_is_connected(
    postgres_server: PostgresFactory,
) -> None:
    server = postgres_server()
    with psycopg.connect(server.dsn(), autocommit=True) as watcher:
        with fresh_database(server, "Ünusual / name!") as database:
            database.execute("SELECT pg_create_logical_replication_slot('idle', 'pgoutput')")
            database.execute("SELECT pg_create_logical_replication_slot('busy', 'pgoutput')")
            stranger = psycopg.connect(database.dsn)
            reader = psycopg.connect(database.dsn, replication="database", autocommit=True)
            reader.execute(
                "START_REPLICATION SLOT busy LOGICAL 0/0"
                " (proto_version '1', publication_names 'none')"
            )
        assert watcher.execute("SELECT slot_name FROM pg_replication_slots").fetchall() == []
        assert watcher.execute(
            "SELECT datname FROM pg_database WHERE datname NOT LIKE 'template%'"
        ).fetchall() == [("postgres",)]
        stranger.close()
        reader.close()


def test_a_broker_leaves_a_test_without_streams_however_many_there_were(
    nats_factory: NatsFactory,
) -> None:
    url = nats_factory().url

    async def fill_and_empty() -> list[int]:
        client = await nats.connect(url)
        jetstream = client.jetstream()
        for number in range(300):  # more than a page of the server's list
            await jetstream.add_stream(name=f"s{number}", subjects=[f"s{number}"])
        await jetstream.create_key_value(bucket="bucket")
        counts = [(await jetstream.account_info()).streams]
        await delete_all_streams(url)
        counts.append((await jetstream.account_info()).streams)
        await client.close()
        return counts

    assert asyncio.run(fill_and_empty()) == [301, 0]
