"""A nats-server with JetStream that belongs to this process.

Upstream: `pgflo replicate` without --nats-url, `pgflo demo`, the fixtures. Downstream:
`lifeline.py` for the process. What stands in the server's directory, closed to others:

    jetstream/   the store
    nats.conf    its configuration, with the password if there is one
    ports/       where the server tells which ports it got
    server.log   all that it said

Invariant: nothing outside this directory is written, nothing but loopback is listened on, and the
server ends with this process; the store stays unless it is to be thrown away.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from pgflo.embedded.account import Account, claim_directory
from pgflo.embedded.binaries import find_nats_server
from pgflo.embedded.lifeline import Launch, Lifeline
from pgflo.embedded.ports import LOOPBACK
from pgflo.errors import PORT_TAKEN, SERVER_START, SERVER_STOP, PgfloError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

USER = "pgflo"
ANY_PORT = -1
START_TIMEOUT_S = 120.0
"""Reading a large store back is part of a start."""
STOP_TIMEOUT_S = 60.0
READY_POLL_S = 0.005
HEALTH_TIMEOUT_S = 5.0
LOG_TAIL_LINES = 12


class EmbeddedNats:
    """One server; a context manager that starts and closes it. Calls must not overlap.

    `directory` is made, or empty, or left by an earlier one: then its store is served again.
    Without `password` every local user may connect. `port` 0 takes a free one, which later starts
    of this object keep. `max_payload_bytes` bounds a message (server default 1 MiB),
    `max_store_bytes` the store (default: most of the disk); with `sync_always` an acknowledgement
    waits for the disk.
    `throw_away` removes the directory when the object is closed or this process dies.
    """

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
        self.binary = find_nats_server(binary)
        caller = Account(os.geteuid(), os.getegid(), switched=False)
        self.directory = claim_directory(directory, caller, kind="nats")
        self.log_path = self.directory / "server.log"
        self._port = port
        self._password = password
        self._max_payload_bytes = max_payload_bytes
        self._max_store_bytes = max_store_bytes
        self._sync_always = sync_always
        self._throw_away = throw_away
        self._pid = 0
        self._monitor_url = ""
        self._lifeline: Lifeline | None = None

    @property
    def port(self) -> int:
        """The client port on 127.0.0.1; known from the first start on."""
        if not self._port:
            raise PgfloError(SERVER_START, "the embedded NATS server was not started yet")
        return self._port

    @property
    def pid(self) -> int:
        """Process id of the server that was started last."""
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended, by our doing or its own."""
        return self._lifeline is not None and self._lifeline.wait(0) is None and self._pid != 0

    @property
    def url(self) -> str:
        """Where clients connect, with the password if there is one."""
        secret = f"{USER}:{quote(self._password, safe='')}@" if self._password else ""
        return f"nats://{secret}{LOOPBACK}:{self.port}"

    @property
    def monitor_url(self) -> str:
        """The HTTP monitoring address (`/varz`, `/jsz`, `/healthz`); new after each start."""
        return self._monitor_url

    def start(self) -> None:
        """Return when JetStream serves, after 0.1 s. `PgfloError`: PORT_TAKEN, SERVER_START."""
        if self.running:
            return
        if self._lifeline is None:
            remove = self.directory if self._throw_away else None
            self._lifeline = Lifeline(log=self.log_path, remove=remove)
        self._pid = 0
        config = self._write_config()
        log_from = self.log_path.stat().st_size
        self._pid = self._lifeline.run(
            Launch(
                argv=[str(self.binary.path), "--config", str(config)],
                cwd=self.directory,
                log=self.log_path,
                env={"PATH": "/usr/bin:/bin", "TZ": "UTC", "HOME": str(self.directory)},
                ladder=((signal.SIGINT, 10.0),),
            )
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._serves():
            code = self._lifeline.wait(READY_POLL_S)
            if code is not None or time.monotonic() > deadline:
                self._fail_start(code, log_from)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Return when the server is gone, its store written; nothing if it does not run.

        Raises `PgfloError` SERVER_STOP, having killed it, when that takes too long.
        """
        if self._lifeline is None or not self.running:
            return
        self._lifeline.signal(signal.SIGINT)
        if self._lifeline.wait(timeout_s) is None:
            self.kill()
            raise PgfloError(
                SERVER_STOP,
                f"nats-server did not stop in {timeout_s:g} s and was killed; see {self.log_path}",
            )
        self._pid = 0
        if not self._throw_away:
            self._lifeline.close()
            self._lifeline = None

    def kill(self) -> None:
        """SIGKILL the server and return when it is gone."""
        if self._lifeline is None or not self.running:
            return
        self._lifeline.signal(signal.SIGKILL)
        if self._lifeline.wait(STOP_TIMEOUT_S) is None:
            raise PgfloError(SERVER_STOP, f"process {self._pid} survives SIGKILL")
        self._pid = 0

    def restart(self) -> None:
        """Stop, then start on the same port with the same store."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): its connections stay open and nothing answers on them."""
        if self._lifeline is not None:
            self._lifeline.signal(signal.SIGSTOP)

    def unpause(self) -> None:
        """Let a frozen process go on."""
        if self._lifeline is not None:
            self._lifeline.signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop for good, and remove the directory if it is to be thrown away."""
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
            self._pid = 0
        elif self._throw_away:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write_config(self) -> Path:
        """Write the configuration (the server's language contains JSON), make its directories."""
        store, ports = self.directory / "jetstream", self.directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)  # where the last server was
        for made in (store, ports):
            made.mkdir(mode=0o700, exist_ok=True)
        jetstream: dict[str, Any] = {"store_dir": str(store)}
        if self._sync_always:
            jetstream["sync_interval"] = "always"
        if self._max_store_bytes is not None:
            jetstream["max_file_store"] = self._max_store_bytes
        config: dict[str, Any] = {
            "listen": f"{LOOPBACK}:{self._port or ANY_PORT}",
            "http": f"{LOOPBACK}:{ANY_PORT}",
            "ports_file_dir": str(ports),
            "jetstream": jetstream,
        }
        if self._max_payload_bytes is not None:
            config["max_payload"] = self._max_payload_bytes
        if self._password:
            config["authorization"] = {"user": USER, "password": self._password}
        path = self.directory / "nats.conf"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(config, file, indent=1)
        return path

    def _serves(self) -> bool:
        """Whether the server has told its ports and says that JetStream is up."""
        for file in (self.directory / "ports").glob(f"*_{self._pid}.ports"):
            try:
                told = json.loads(file.read_text())
            except json.JSONDecodeError:
                return False  # half written
            self._monitor_url = told["monitoring"][0]
            if not self._is_healthy():
                return False
            port = urlsplit(told["nats"][0]).port
            if port is not None:
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

    def _fail_start(self, code: int | None, log_from: int) -> None:
        if code is None:
            self.kill()
        self._pid = 0
        with self.log_path.open("rb") as file:
            file.seek(log_from)
            said = file.read().decode(errors="replace")
        if "address already in use" in said:
            raise PgfloError(
                PORT_TAKEN, f"port {self._port} on {LOOPBACK} is in use", port=self._port
            )
        why = "is not ready" if code is None else f"ended with code {code}"
        tail = "\n".join(said.splitlines()[-LOG_TAIL_LINES:])
        raise PgfloError(SERVER_START, f"nats-server {why}; {self.log_path} ends:\n{tail}")
