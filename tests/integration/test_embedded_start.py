"""Embedded servers start, stop, come back with their data, and say why when they cannot."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import nats
import psutil
import psycopg
import pytest
from tests.processes import descendants

from pgflo.embedded import EmbeddedNats, EmbeddedPostgres, find_running, throw_away_directory
from pgflo.embedded.ports import free_port
from pgflo.errors import DIRECTORY_REFUSED, PORT_TAKEN, SERVER_START, PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_nats import NatsFactory
    from tests.fix_postgres import Database, PostgresFactory

    from pgflo.embedded.server import EmbeddedServer

SYSTEM = "SELECT system_identifier FROM pg_control_system()"
SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - looked for, not used
PLAIN = "fits-into_an.address~1"
AWKWARD = "it's a \\ secret/with:odd@signs"


@pytest.fixture
def directory() -> Iterator[Path]:
    path = throw_away_directory("pgflo-test-")
    yield path
    assert not path.exists(), "the server of this test has to take its directory along"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def test_each_test_gets_databases_on_two_different_servers(
    source: Database, target: Database
) -> None:
    assert source.value(SYSTEM) != target.value(SYSTEM)
    assert source.value("SHOW wal_level") == "logical"
    assert target.rows("SELECT 1 FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []


def test_a_server_has_default_durability_and_takes_the_settings_asked_for(
    postgres_server: PostgresFactory,
) -> None:
    server = postgres_server(log_line_prefix="it's \\%m ", wal_sender_timeout="3s")
    with psycopg.connect(server.dsn()) as connection:
        shown: dict[str, str] = dict(
            connection.execute("SELECT name, setting FROM pg_settings").fetchall()
        )
    assert shown["fsync"] == shown["synchronous_commit"] == shown["full_page_writes"] == "on"
    assert shown["log_line_prefix"] == "it's \\%m "
    assert shown["wal_sender_timeout"] == "3000"
    assert shown["server_encoding"] == "UTF8"


def test_a_restart_keeps_data_and_port_and_changes_settings(
    postgres_server: PostgresFactory,
) -> None:
    server = postgres_server()
    dsn = server.create_database("keep me")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    pid = server.pid
    server.restart(settings={"wal_keep_size": "7MB"})
    assert server.dsn("keep me") == dsn
    assert server.pid != pid
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]
        assert connection.execute("SHOW wal_keep_size").fetchall() == [("7MB",)]


def test_a_killed_postgres_leaves_no_child_and_recovers_what_was_committed(
    postgres_server: PostgresFactory,
) -> None:
    server = postgres_server()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        children = descendants(of=server.pid)
        server.kill()
        assert not server.running
        assert [child for child in children if child.is_running()] == []
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    server.start()
    with psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_nats_comes_back_on_its_port_with_its_streams(nats_factory: NatsFactory, end: str) -> None:
    server = nats_factory()
    url = server.url
    asyncio.run(_publish(url, b"kept"))
    if end == "kill":
        server.kill()
        server.start()
    else:
        server.restart()
    assert server.url == url
    assert asyncio.run(_last_message(url)) == b"kept"


def test_the_next_nats_of_a_directory_takes_port_and_streams_of_the_last(directory: Path) -> None:
    with EmbeddedNats(directory) as first:
        url = first.url
        asyncio.run(_publish(url, b"kept"))
        assert find_running(directory) == url
    assert find_running(directory) is None
    with EmbeddedNats(directory, throw_away=True) as second:
        assert second.url == url
        assert asyncio.run(_last_message(url)) == b"kept"


def test_the_next_nats_of_a_directory_moves_when_its_port_has_been_taken(directory: Path) -> None:
    with EmbeddedNats(directory) as first:
        port = first.port
    with (
        closing(socket.create_server(("127.0.0.1", port))),
        EmbeddedNats(directory, throw_away=True) as second,
    ):
        assert second.port != port
        assert find_running(directory) == second.url


def test_nats_takes_messages_as_large_as_asked_for(nats_factory: NatsFactory) -> None:
    server = nats_factory(max_payload_bytes=3_000_000, sync_always=True, max_store_bytes=2**30)

    async def look() -> tuple[int, int]:
        client = await nats.connect(server.url)
        account = await client.jetstream().account_info()
        await client.close()
        assert account.limits is not None
        return client.max_payload, account.storage

    assert asyncio.run(look()) == (3_000_000, 0)
    assert '"sync_interval": "always"' in (server.directory / "nats.conf").read_text()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedNats])
def test_a_given_port_that_is_taken_is_a_clear_error(
    directory: Path, taken_port: int, kind: type[EmbeddedPostgres | EmbeddedNats]
) -> None:
    server = kind(directory, port=taken_port, throw_away=True)
    with pytest.raises(PgfloError) as caught:
        server.start()
    server.close()
    assert caught.value.kind is PORT_TAKEN
    assert f"port {taken_port} on 127.0.0.1 is in use" in caught.value.detail


def test_a_free_port_that_is_taken_before_we_bind_is_replaced(
    directory: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = [taken_port]
    monkeypatch.setattr(
        "pgflo.embedded.postgres.free_port", lambda: offered.pop() if offered else free_port()
    )
    with EmbeddedPostgres(directory, throw_away=True) as server:
        assert offered == []
        assert server.port != taken_port


def test_a_setting_that_postgres_refuses_is_told_with_its_own_words(directory: Path) -> None:
    server = EmbeddedPostgres(directory, settings={"wal_level": "loud"}, throw_away=True)
    with pytest.raises(PgfloError) as caught:
        server.start()
    server.close()
    assert caught.value.kind is SERVER_START
    assert 'invalid value for parameter "wal_level"' in caught.value.detail


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedNats])
def test_a_directory_with_something_else_in_it_is_refused_and_left_alone(
    tmp_path: Path, kind: type[EmbeddedPostgres | EmbeddedNats]
) -> None:
    (tmp_path / "precious").write_text("mine")
    server = kind(tmp_path, throw_away=True)
    with pytest.raises(PgfloError) as caught:
        server.start()
    server.close()
    assert caught.value.kind is DIRECTORY_REFUSED
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedNats])
def test_two_servers_never_work_on_one_directory(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[EmbeddedPostgres | EmbeddedNats],
) -> None:
    monkeypatch.setattr("pgflo.embedded.server.LOCK_TIMEOUT_S", 0.1)
    with kind(directory, throw_away=True) as first:
        second = kind(directory)
        with pytest.raises(PgfloError) as caught:
            second.start()
        second.close()
        assert caught.value.kind is SERVER_START
        assert f"another embedded server works on {directory}" in caught.value.detail
        assert first.running


def test_a_password_is_asked_for_and_shown_to_nobody(directory: Path) -> None:
    broker_directory = throw_away_directory("pgflo-test-")
    with (
        EmbeddedPostgres(directory, password=AWKWARD, throw_away=True) as server,
        EmbeddedNats(broker_directory, password=PLAIN, throw_away=True) as broker,
    ):
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT 1").fetchall() == [(1,)]
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.dsn().replace("it%27s", "wrong"))
        asyncio.run(_publish(broker.url, b"let in"))
        with closing(socket.create_connection(("127.0.0.1", broker.port))) as stranger:
            stranger.sendall(b"CONNECT {}\r\nPING\r\n")
            with stranger.makefile("rb") as answer:
                assert b"Authorization Violation" in answer.read()
        assert _strangers_find(server, AWKWARD) == []
        assert _strangers_find(broker, PLAIN) == []


def test_servers_listen_on_loopback_and_write_below_their_directory_only(
    postgres_server: PostgresFactory, nats_factory: NatsFactory
) -> None:
    postgres = postgres_server(max_parallel_workers_per_gather="2", parallel_setup_cost="0")
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("SET min_parallel_table_scan_size = 0")
        connection.execute("CREATE TABLE big AS SELECT generate_series(1, 200000) AS n")
        connection.execute("SELECT count(*), sum(n) FROM big")
        connection.execute("CREATE TEMP TABLE sorted AS SELECT n FROM big ORDER BY -n")
        broker = nats_factory()
        asyncio.run(_publish(broker.url, b"x" * 100_000))
        for server in (postgres, broker):
            processes = _processes_of(server)
            assert _written_outside(processes, server.directory) == []
            assert _listening(processes) == {"127.0.0.1"}
            assert server.directory.parent.stat().st_mode & 0o1777 == 0o1777


def test_a_killed_postgres_leaves_nothing_in_shared_memory(
    postgres_server: PostgresFactory,
) -> None:
    server = postgres_server()
    before = _shared_memory()
    assert server.data.joinpath("postmaster.pid").read_text().splitlines()[6].split()[1] in before
    server.kill()
    segment = server.data.joinpath("postmaster.pid").read_text().splitlines()[6].split()[1]
    assert segment not in _shared_memory()


def _shared_memory() -> set[str]:
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()}


def _processes_of(server: EmbeddedServer) -> list[psutil.Process]:
    return [psutil.Process(server.pid), *descendants(of=server.pid)]


def _written_outside(processes: list[psutil.Process], directory: Path) -> list[str]:
    """Files that processes hold open for writing, or share in memory, outside a directory."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # one of the server's may just end
            found += [file.path for file in process.open_files() if file.mode != "r"]
            found += [
                area.path for area in process.memory_maps() if area.path.startswith(SHARED_MEMORY)
            ]
    return [path for path in found if not path.startswith(f"{directory}/")]


def _listening(processes: list[psutil.Process]) -> set[str]:
    connections = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # one of the server's may just end
            connections += process.net_connections("inet")
    return {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}


def _strangers_find(server: EmbeddedServer, secret: str) -> list[str]:
    """Where somebody else could read a secret: command lines, environments, open files' modes."""
    guardian = psutil.Process(psutil.Process(server.pid).ppid())
    found = []
    for process in [*_processes_of(server), guardian]:
        with contextlib.suppress(psutil.NoSuchProcess):  # one of the server's may just end
            if secret in "\0".join([*process.cmdline(), *process.environ().values()]):
                found.append(f"process {process.pid}")
    files = [path for path in server.directory.rglob("*") if path.is_file()]
    found += [
        str(path)
        for path in files
        if path.stat().st_mode & 0o077 and secret.encode() in path.read_bytes()
    ]
    assert files
    return found


async def _publish(url: str, payload: bytes) -> None:
    client = await nats.connect(url, allow_reconnect=False)
    try:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="kept", subjects=["kept"])
        await jetstream.publish("kept", payload)
    finally:
        await client.close()


async def _last_message(url: str) -> bytes | None:
    client = await nats.connect(url, allow_reconnect=False)
    try:
        return (await client.jetstream().get_last_msg("kept", "kept")).data
    finally:
        await client.close()
