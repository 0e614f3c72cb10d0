"""Connecting: what is wrong is said at once and by name, and a password is said to nobody."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs
from tests.fix_broker import until

from pgflo.broker.connection import connect
from pgflo.broker.topology import create_streams
from pgflo.config.settings import NatsSettings
from pgflo.embedded.binaries import find_nats_server
from pgflo.errors import (
    BROKER_DENIED,
    BROKER_NO_JETSTREAM,
    BROKER_TLS,
    BROKER_TOO_OLD,
    BROKER_UNREACHABLE,
    BROKER_URL,
    PgfloError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fix_broker import OpenBroker
    from tests.fix_nats import NatsFactory
    from tests.fix_proxy import ProxyFactory

    from pgflo.broker.names import Names
    from pgflo.embedded import EmbeddedNats

SECRET = "sEcret-p-w"  # noqa: S105 - what must not be told


class BareServer(Protocol):
    """Start a nats-server with nothing but these lines of configuration; gives a port of it."""

    def __call__(self, config: str, protocol: str = "nats") -> int:
        """Start it."""
        ...


@pytest.fixture
def bare_server(tmp_path: Path) -> Iterator[BareServer]:
    with ExitStack() as stack:

        def start(config: str, protocol: str = "nats") -> int:
            file = tmp_path / "nats.conf"
            file.write_text(f'listen: "127.0.0.1:-1"\nports_file_dir: "{tmp_path}"\n{config}\n')
            process = subprocess.Popen(
                [find_nats_server().path, "-c", file],
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            told = tmp_path / f"{find_nats_server().path.name}_{process.pid}.ports"
            deadline = time.monotonic() + 20
            while True:
                try:
                    port: int | None = urlsplit(json.loads(told.read_text())[protocol][0]).port
                except (FileNotFoundError, json.JSONDecodeError):
                    assert time.monotonic() < deadline
                    assert process.poll() is None
                    continue
                assert port is not None
                return port

        yield start


async def refused(**settings: object) -> PgfloError:
    """Try to connect; give the error, having seen that it tells no secret."""
    with capture_logs() as logs, pytest.raises(PgfloError) as caught:
        await connect(NatsSettings.model_validate(settings), name="test")
    error = caught.value
    told = f"{error!r} {error} {error.hint} {error.context} {logs}"
    chain: BaseException | None = error
    while chain is not None and not chain.__suppress_context__:
        told += repr(chain)
        chain = chain.__cause__ or chain.__context__
    assert SECRET not in told
    return error


async def test_a_server_that_is_not_there_is_named_at_once_without_credentials() -> None:
    began = time.monotonic()
    error = await refused(url=f"nats://user:{SECRET}@127.0.0.1:1")
    assert error.kind is BROKER_UNREACHABLE
    assert "127.0.0.1:1" in error.detail
    assert time.monotonic() - began < 2


async def test_the_second_server_is_tried_when_the_first_is_not_there(
    nats_url: str, open_broker: OpenBroker
) -> None:
    for _ in range(4):  # in either order
        broker = await open_broker(f"nats://127.0.0.1:1,{nats_url}")
        assert broker.is_connected


@pytest.mark.parametrize(
    "url",
    [
        f"nats://user:{SECRET}@host:port",
        f"nats://user:{SECRET}@[::1",
        f"nats://user:{SECRET}@",
        f"http://user:{SECRET}@localhost",
        f"nats://a:{SECRET}@one,nats://b:{SECRET}@two",
        "",
        " , ",
    ],
)
async def test_an_address_that_cannot_be_read_is_refused_without_quoting_it(url: str) -> None:
    assert (await refused(url=url)).kind is BROKER_URL


async def test_a_wrong_password_is_told_as_such(nats_factory: NatsFactory) -> None:
    server = nats_factory(password="right")
    error = await refused(url=f"nats://pgflo:{SECRET}@127.0.0.1:{server.port}")
    assert error.kind is BROKER_DENIED
    assert (await refused(url=f"nats://127.0.0.1:{server.port}")).kind is BROKER_DENIED


async def test_a_password_with_odd_characters_is_decoded_from_the_address(
    bare_server: BareServer, open_broker: OpenBroker, tmp_path: Path
) -> None:
    port = bare_server(
        f'jetstream: {{store_dir: "{tmp_path}/js"}}\n'
        'authorization: {user: "us:er", password: "p@ss/w:rd"}'
    )
    broker = await open_broker(f"nats://us%3Aer:p%40ss%2Fw%3Ard@127.0.0.1:{port}")
    assert broker.is_connected


async def test_a_token_lets_us_in(
    bare_server: BareServer, open_broker: OpenBroker, tmp_path: Path
) -> None:
    port = bare_server(
        f'jetstream: {{store_dir: "{tmp_path}/js"}}\nauthorization: {{token: "{SECRET}"}}'
    )
    assert (await open_broker(f"nats://{SECRET}@127.0.0.1:{port}")).is_connected
    assert (await refused(url=f"nats://127.0.0.1:{port}")).kind is BROKER_DENIED


async def test_a_server_without_jetstream_is_told_as_such(bare_server: BareServer) -> None:
    error = await refused(url=f"nats://127.0.0.1:{bare_server('')}")
    assert error.kind is BROKER_NO_JETSTREAM


async def test_a_server_that_is_too_old_is_told_its_version() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.9.10","max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await refused(url=f"nats://127.0.0.1:{port}")
    assert error.kind is BROKER_TOO_OLD
    assert "2.9.10" in error.detail


async def test_something_that_is_no_nats_server_is_not_waited_for_long() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        began = time.monotonic()
        error = await refused(url=f"nats://127.0.0.1:{port}")
    assert error.kind is BROKER_UNREACHABLE
    assert time.monotonic() - began < 10


async def test_a_password_is_not_sent_in_the_clear_when_tls_is_asked_for(
    bare_server: BareServer, tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path)
    port = bare_server(f'jetstream: {{store_dir: "{tmp_path}/js"}}')
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, down = await asyncio.open_connection("127.0.0.1", port)
        writer.write(await upstream.readline())
        heard.append(await reader.read(4096))
        down.close()
        writer.close()

    middle = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with middle:
        at = middle.sockets[0].getsockname()[1]
        error = await refused(url=f"nats://u:{SECRET}@127.0.0.1:{at}", tls_ca=certificate)
        assert error.kind is BROKER_TLS
        error = await refused(url=f"tls://u:{SECRET}@127.0.0.1:{at}")
        assert error.kind is BROKER_TLS
    assert key.exists()
    assert SECRET.encode() not in b"".join(heard)


async def test_tls_is_used_and_an_unknown_authority_is_refused(
    bare_server: BareServer, open_broker: OpenBroker, tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path)
    port = bare_server(
        f'jetstream: {{store_dir: "{tmp_path}/js"}}\n'
        f'tls: {{cert_file: "{certificate}", key_file: "{key}"}}'
    )
    broker = await open_broker(f"nats://127.0.0.1:{port}", tls_ca=certificate)
    assert broker.is_connected
    assert (await refused(url=f"tls://127.0.0.1:{port}")).kind is BROKER_TLS
    missing = await refused(url=f"tls://127.0.0.1:{port}", tls_ca=tmp_path / "missing.pem")
    assert missing.kind is BROKER_TLS
    assert "missing.pem" in missing.detail


@pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning")  # nats-py's own
async def test_a_broker_is_reached_through_a_websocket(
    bare_server: BareServer, open_broker: OpenBroker, tmp_path: Path
) -> None:
    port = bare_server(
        f'jetstream: {{store_dir: "{tmp_path}/js"}}\n'
        'websocket: {listen: "127.0.0.1:-1", no_tls: true}',
        protocol="websocket",
    )
    broker = await open_broker(f"ws://127.0.0.1:{port}")
    assert broker.is_connected


async def test_a_lost_connection_comes_back_and_the_generation_tells(
    nats_factory: NatsFactory, open_broker: OpenBroker
) -> None:
    server = nats_factory(password=SECRET)
    with capture_logs() as logs:
        broker = await open_broker(server.url)
        first = broker.generation
        for _ in range(2):
            change = asyncio.create_task(broker.wait_generation_change(broker.generation))
            await asyncio.to_thread(server.kill)
            await until(lambda: not broker.is_connected, "the loss is noticed")
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(30):
                await change
        assert broker.generation == first + 2
        assert (await broker.ask("INFO", {}))["streams"] == 0
    assert SECRET not in str(logs)
    waiting = asyncio.create_task(broker.wait_generation_change(broker.generation))
    await asyncio.sleep(0)
    await broker.close()
    with pytest.raises(PgfloError) as caught:
        await waiting
    assert caught.value.kind is BROKER_UNREACHABLE


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key


async def test_a_right_that_is_missing_is_named(
    bare_server: BareServer, open_broker: OpenBroker, names: Names, tmp_path: Path
) -> None:
    port = bare_server(
        f'jetstream: {{store_dir: "{tmp_path}/js"}}\n'
        'authorization: {users: [{user: "u", password: "p", '
        'permissions: {publish: {deny: ["$JS.API.STREAM.CREATE.>"]}}}]}'
    )
    broker = await open_broker(f"nats://u:p@127.0.0.1:{port}")
    with pytest.raises(PgfloError) as caught:
        await create_streams(broker, names, broker.settings, copy=False)
    assert caught.value.kind is BROKER_DENIED
    assert names.changes_stream in caught.value.detail


async def test_credentials_that_cannot_be_read_are_told_as_such(
    nats_url: str, tmp_path: Path
) -> None:
    error = await refused(url=nats_url, creds=tmp_path / "missing.creds")
    assert error.kind is BROKER_DENIED
    assert "missing.creds" in error.detail


async def test_reconnecting_goes_on_after_the_client_gave_it_up_in_silence(
    nats_server: EmbeddedNats, open_broker: OpenBroker, tcp_proxy: ProxyFactory
) -> None:
    proxy = tcp_proxy("127.0.0.1", nats_server.port)
    broker = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    await asyncio.to_thread(proxy.refuse)
    await until(lambda: broker.nc.is_reconnecting, "the loss is noticed")
    task = broker.nc._reconnection_task
    assert task is not None
    task.cancel()  # stands for whatever the event loop may raise in the middle of it
    await asyncio.wait([task])
    assert not broker.is_connected
    await asyncio.to_thread(proxy.resume)
    async with asyncio.timeout(10):
        await broker.wait_generation_change(0)
    assert (await broker.ask("INFO", {}))["streams"] == 0


async def test_a_cancellation_that_comes_with_the_answer_is_not_forgotten(nats_url: str) -> None:
    broker = await connect(NatsSettings(url=nats_url), name="test")
    loop = asyncio.get_running_loop()

    async def exchange() -> int:
        answer: asyncio.Future[int] = loop.create_future()
        loop.call_soon(answer.set_result, 1)
        loop.call_soon(task.cancel)
        return await asyncio.wait_for(answer, 5)  # as the client waits for an answer

    task = asyncio.ensure_future(broker.attempt(exchange))
    await asyncio.wait([task])
    assert task.cancelled()
    await broker.close()
