"""A PostgreSQL server that belongs to this process.

Upstream: `pgflo demo`, the fixtures. Downstream: `template.py` for the data directory,
`server.py` for the process. What stands in the server's directory:

    data/             PGDATA, of the server's account
    run/              the Unix socket, where its path is short enough for one
    postgresql.conf   initdb's settings, then ours; `ALTER SYSTEM` wins over both
    server.log        all that initdb and the server said
    created           the data directory was made to the end

Invariant: nothing outside this directory is written (except the cache of templates), nothing but
loopback is listened on, and the server ends with this process.
"""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from pgflo.embedded.account import server_account
from pgflo.embedded.binaries import find_postgres
from pgflo.embedded.install import readable_install
from pgflo.embedded.interlock import remove_interlock
from pgflo.embedded.lifeline import Launch
from pgflo.embedded.ports import LOOPBACK, free_port
from pgflo.embedded.server import STOP_TIMEOUT_S, EmbeddedServer
from pgflo.embedded.template import SUPERUSER, Cluster, create_cluster
from pgflo.errors import CONFIG, PORT_TAKEN, PgfloError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pgflo.embedded.binaries import Found

StopMode = Literal["smart", "fast", "immediate"]
STOP_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
QUICK_LADDER = ((signal.SIGQUIT, 5.0),)
"""When nobody will want the data again: no checkpoint, children killed by the postmaster itself."""
CAREFUL_LADDER = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
PORT_ATTEMPTS = 20
PID_FILE_STATUS_LINE = 7
LONGEST_SOCKET_DIRECTORY_BYTES = 90
"""A socket's whole path must fit into 107 bytes."""
SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %q%a %d ",
    "logging_collector": "off",
    "ssl": "off",
    # In the data directory instead of /dev/shm, where a killed server would leave them behind.
    "dynamic_shared_memory_type": "mmap",
}


class EmbeddedPostgres(EmbeddedServer):
    """One server; a context manager that starts and closes it. Calls must not overlap.

    `directory` is made, or empty, or left by an earlier one: then its data is served again.
    `settings` go over ours (`wal_level = logical`, 20 slots and walsenders, default durability).
    Without `password` every local user may connect as superuser `postgres`; set one wherever other
    people use the machine. `port` 0 takes a free one, which later starts of this object keep.
    `throw_away` removes the directory when the object is closed or this process dies.
    """

    title = "PostgreSQL"
    kind = "postgres"

    def __init__(
        self,
        directory: Path,
        *,
        bin_dir: Path | None = None,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        password: str | None = None,
        throw_away: bool = False,
        use_cache: bool = True,
    ) -> None:
        super().__init__(directory, server_account(), port=port, throw_away=throw_away)
        self.binaries = find_postgres(bin_dir)
        self.data = self.directory / "data"
        self._settings = {**SETTINGS, **(settings or {})}
        self._password = password
        self._use_cache = use_cache

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        """Return a connection URL, with the password if there is one and it is this user's."""
        mine = self._password is not None and user == SUPERUSER
        secret = f":{quote(self._password or '', safe='')}" if mine else ""
        return (
            f"postgresql://{quote(user, safe='')}{secret}@{LOOPBACK}:{self.port}"
            f"/{quote(dbname, safe='')}"
        )

    def start(self) -> None:
        """Return when connections are accepted; recovery after a crash is over then.

        Raises `PgfloError`: PORT_TAKEN for a port that was given or used before, SERVER_START with
        the last lines of the log for everything else. Costs 0.2 s with a template, 1 s without.
        """
        if self.running:
            return
        self._open_lifeline()
        binaries = readable_install(self.binaries, self._account)
        self._make_data(binaries)
        for attempts_left in reversed(range(PORT_ATTEMPTS)):
            port = self._port or free_port()
            self._write_config(port)
            try:
                self._run(self._launch(binaries), self._accepts_connections)
            except PgfloError as error:
                if error.kind is not PORT_TAKEN:
                    raise
                if self._port or not attempts_left:
                    detail = f"port {port} on {LOOPBACK} is in use"
                    raise PgfloError(PORT_TAKEN, detail, port=port) from error
            else:
                self._port = port
                return

    def stop(self, mode: StopMode = "fast", timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Return when the server and all its children are gone; nothing if it does not run.

        `smart` waits for clients to leave, `fast` sends them away, `immediate` is a crash with
        notice. Raises `PgfloError` SERVER_STOP, having killed it, when that takes too long.
        """
        self._stop(STOP_SIGNALS[mode], timeout_s)

    def kill(self) -> None:
        """SIGKILL the postmaster, then its children; return when all of them are gone."""
        if self.running:
            super().kill()
            remove_interlock(self.data)

    def restart(
        self, mode: StopMode = "fast", *, settings: Mapping[str, str] | None = None
    ) -> None:
        """Stop, lay `settings` over the ones so far, start on the same port with the same data."""
        self.stop(mode)
        self._settings |= settings or {}
        self.start()

    def create_database(self, name: str) -> str:
        """Create a database and return its connection URL."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.dsn(name)

    def _make_data(self, binaries: Found) -> None:
        """Fill the data directory, unless an earlier start has done it to the end."""
        finished = self.directory / "created"
        if finished.exists():
            return
        cluster = Cluster(
            binaries=binaries,
            account=self._account,
            directory=self.directory,
            env=self._environment(),
            log=self.log_path,
            password=self._password,
        )
        create_cluster(cluster, self._open_lifeline(), use_cache=self._use_cache)
        sockets = self.directory / "run"
        sockets.mkdir(exist_ok=True, mode=0o700)
        self._account.give(sockets)
        finished.touch()

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.directory)}

    def _launch(self, binaries: Found) -> Launch:
        config = self.directory / "postgresql.conf"
        program = binaries.path / "postgres"
        return Launch(
            argv=[str(program), "-D", str(self.data), f"--config-file={config}"],
            cwd=self.directory,
            log=self.log_path,
            env=self._environment(),
            user=self._account.uid if self._account.switched else None,
            group=self._account.gid if self._account.switched else None,
            ladder=QUICK_LADDER if self._throw_away else CAREFUL_LADDER,
            orphan_signal=signal.SIGQUIT,
        )

    def _write_config(self, port: int) -> None:
        """Write the configuration file anew; it may hold passwords (`primary_conninfo`)."""
        sockets = str(self.directory / "run")
        short = len(os.fsencode(sockets)) <= LONGEST_SOCKET_DIRECTORY_BYTES
        settings = {
            **self._settings,
            "port": str(port),
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": sockets if short else "",
            "data_directory": str(self.data),
            "hba_file": str(self.data / "pg_hba.conf"),
            "ident_file": str(self.data / "pg_ident.conf"),
        }
        lines = [f"include {_quoted(str(self.data / 'postgresql.conf'))}"]
        lines += [f"{_checked(name)} = {_quoted(value)}" for name, value in settings.items()]
        path = self.directory / "postgresql.conf"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
        self._account.give(path)

    def _accepts_connections(self) -> bool:
        """Read what the postmaster writes for pg_ctl: its pid first, `ready` at the end."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return (
            len(lines) > PID_FILE_STATUS_LINE
            and lines[0].strip() == str(self._pid)
            and lines[PID_FILE_STATUS_LINE].strip() == "ready"
        )


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
        raise PgfloError(CONFIG, f"{name!r} is no name of a PostgreSQL setting")
    return name


def _quoted(value: str) -> str:
    """Quote a value for postgresql.conf, where a line ends every value and backslashes escape."""
    if "\n" in value or "\r" in value:
        raise PgfloError(CONFIG, "a PostgreSQL setting cannot contain a line break")
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
