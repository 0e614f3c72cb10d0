"""A nats-server with JetStream that belongs to this process.

Upstream: `pgflo replicate` without --nats-url, `pgflo demo`, the fixtures. Downstream: `server.py`
for the process. What stands in the server's directory, closed to others:

    jetstream/   the store
    nats.conf    its configuration, with the password if there is one
    ports/       where the server tells which ports it got
    url          where clients of this machine find it, and the next start its port
    server.log   all that it said

Invariant: nothing outside this directory is written, nothing but loopback is listened on, and the
server ends with this process; the store stays unless it is to be thrown away.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pgflo.embedded.account import Account
from pgflo.embedded.binaries import find_nats_server
from pgflo.embedded.lifeline import Launch
from pgflo.embedded.ports import LOOPBACK
from pgflo.embedded.server import STOP_TIMEOUT_S, EmbeddedServer, is_in_use
from pgflo.errors import CONFIG, PORT_TAKEN, PgfloError

if TYPE_CHECKING:
    from pathlib import Path

USER = "pgflo"
ANY_PORT = -1
HEALTH_TIMEOUT_S = 5.0
URL_FILE = "url"
MEMORY_LIMIT = "160MiB"
"""What Go's collector holds the server to. What was written or read stays cached for two seconds:
without a limit that is 600 MB while a copy passes, most of it garbage."""
MEMORY_STORE_BYTES = 64 * 1024 * 1024
"""What streams in memory may reserve, of which none is ours."""


class EmbeddedNats(EmbeddedServer):
    """One server; a context manager that starts and closes it. Calls must not overlap.

    `directory` is made, or empty, or left by an earlier one: then its store is served again.
    Without `password` (letters, digits and `._~-`) every local user may connect. `port` 0 takes the
    one of the last time in this directory or, if that is taken or there was none, a free one.
    `max_payload_bytes` bounds a message (server default 1 MiB), `max_store_bytes` the store
    (default: most of the disk); with `sync_always` an acknowledgement waits for the disk.
    `throw_away` removes the directory when the object is closed or this process dies.
    """

    title = "nats-server"
    kind = "nats"

    def __init__(
        self,
        directory: Path,
        *,
        binary: Path | None = None,
        port: int = 0,
        password: str | None = None,
        max_payload_bytes: int | None = None,
        max_store_bytes: int | None = None,
        sync_always: bool = False,
        throw_away: bool = False,
    ) -> None:
        caller = Account(os.geteuid(), os.getegid(), switched=False)
        super().__init__(directory, caller, port=port, throw_away=throw_away)
        self.binary = find_nats_server(binary)
        if password is not None and not re.fullmatch(r"[A-Za-z0-9._~-]+", password):
            # nats-py takes the password out of an address without decoding it.
            raise PgfloError(CONFIG, "the password of an embedded NATS has to fit into an address")
        self._password = password
        self._max_payload_bytes = max_payload_bytes
        self._max_store_bytes = max_store_bytes
        self._sync_always = sync_always
        self._monitor_url = ""

    @property
    def url(self) -> str:
        """Where clients connect, with the password if there is one."""
        return self._url(self.port)

    @property
    def monitor_url(self) -> str:
        """The HTTP monitoring address (`/varz`, `/jsz`, `/healthz`); new after each start."""
        return self._monitor_url

    def start(self) -> None:
        """Return when JetStream serves, after 0.1 s. `PgfloError`: PORT_TAKEN, SERVER_START."""
        if self.running:
            return
        self._open_lifeline()
        last_port = _last_port(self.directory)
        (self.directory / URL_FILE).unlink(missing_ok=True)  # until it is true again
        try:
            self._launch(self._port or last_port or ANY_PORT)
        except PgfloError as error:
            if error.kind is not PORT_TAKEN:
                raise
            if self._port:
                detail = f"port {self._port} on {LOOPBACK} is in use"
                raise PgfloError(PORT_TAKEN, detail, port=self._port) from error
            self._launch(ANY_PORT)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Return when the server is gone, its store written; nothing if it does not run.

        Raises `PgfloError` SERVER_STOP, having killed it, when that takes too long.
        """
        self._stop(signal.SIGINT, timeout_s)

    def restart(self) -> None:
        """Stop, then start on the same port with the same store."""
        self.stop()
        self.start()

    def _url(self, port: int) -> str:
        secret = f"{USER}:{self._password}@" if self._password else ""
        return f"nats://{secret}{LOOPBACK}:{port}"

    def _launch(self, port: int) -> None:
        config = self._write_config(port)
        launch = Launch(
            argv=[str(self.binary.path), "--config", str(config)],
            cwd=self.directory,
            log=self.log_path,
            env={
                "PATH": "/usr/bin:/bin",
                "TZ": "UTC",
                "HOME": str(self.directory),
                "GOMEMLIMIT": MEMORY_LIMIT,
            },
            # A store that nobody will read again need not be closed properly.
            ladder=() if self._throw_away else ((signal.SIGINT, 20.0),),
        )
        self._run(launch, self._serves)
        _write_private(self.directory / URL_FILE, self.url)

    def _write_config(self, port: int) -> Path:
        """Write the configuration (the server's language contains JSON), make its directories."""
        store, ports = self.directory / "jetstream", self.directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)  # where the last server was
        for made in (store, ports):
            made.mkdir(mode=0o700, exist_ok=True)
        jetstream: dict[str, Any] = {
            "store_dir": str(store),
            "max_memory_store": MEMORY_STORE_BYTES,
        }
        if self._sync_always:
            jetstream["sync_interval"] = "always"
        if self._max_store_bytes is not None:
            jetstream["max_file_store"] = self._max_store_bytes
        config: dict[str, Any] = {
            "listen": f"{LOOPBACK}:{port}",
            "http": f"{LOOPBACK}:{ANY_PORT}",
            "ports_file_dir": str(ports),
            "jetstream": jetstream,
        }
        if self._max_payload_bytes is not None:
            config["max_payload"] = self._max_payload_bytes
        if self._password:
            config["authorization"] = {"user": USER, "password": self._password}
        path = self.directory / "nats.conf"
        _write_private(path, json.dumps(config, indent=1))
        return path

    def _serves(self) -> bool:
        """Whether the server has told its ports and says that JetStream is up."""
        for file in (self.directory / "ports").glob(f"*_{self._pid}.ports"):
            try:
                told = json.loads(file.read_text())
            except json.JSONDecodeError:
                return False  # half written
            self._monitor_url = told["monitoring"][0]
            port = urlsplit(told["nats"][0]).port
            if port is not None and self._is_healthy():
                self._port = port
                return True
        return False

    def _is_healthy(self) -> bool:
        address = f"{self._monitor_url}/healthz?js-enabled-only=true"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(address, timeout=HEALTH_TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


def find_running(directory: Path) -> str | None:
    """Return the URL of the server that serves a directory, whoever started it, else None."""
    url = directory / URL_FILE
    return url.read_text() if url.exists() and is_in_use(directory) else None


def _last_port(directory: Path) -> int | None:
    url = directory / URL_FILE
    return urlsplit(url.read_text()).port if url.exists() else None


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, in one step: others may be reading it."""
    building = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    building.rename(path)
