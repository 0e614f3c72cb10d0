"""The life of an embedded server: what PostgreSQL and NATS have in common.

Upstream: `postgres.py` and `nats.py`, which know what to run and when it is ready. Downstream:
`lifeline.py`. Invariant: at most one server works on a directory, whichever process started it. A
lock on `directory/lock` is taken here and inherited by guardian and server, so it is free exactly
when the last of them is gone; nats-server itself would let two servers write into one store.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from pgflo.embedded.account import claim_directory
from pgflo.embedded.lifeline import Lifeline
from pgflo.errors import PORT_TAKEN, SERVER_START, SERVER_STOP, PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from pgflo.embedded.account import Account
    from pgflo.embedded.lifeline import Launch

START_TIMEOUT_S = 120.0
"""Recovery after a crash, or reading a large store back, is part of a start."""
STOP_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 40.0
"""Longer than any ladder of signals: a predecessor whose parent was killed is on its way out."""
READY_POLL_S = 0.005
LOCK_POLL_S = 0.02
LOG_TAIL_LINES = 12
IN_USE = "address already in use"


class EmbeddedServer(ABC):
    """A server process of ours with its directory, port and log. Calls must not overlap."""

    title: str
    """What people call it."""
    kind: str
    """What its directories are marked with."""

    def __init__(self, directory: Path, account: Account, *, port: int, throw_away: bool) -> None:
        self.directory = directory.resolve()
        self.log_path = self.directory / "server.log"
        self._account = account
        self._port = port
        self._throw_away = throw_away
        self._claimed = False
        self._pid = 0
        self._lifeline: Lifeline | None = None

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; known from the first start on, and kept for later ones."""
        if not self._port:
            raise PgfloError(SERVER_START, f"the embedded {self.title} was not started yet")
        return self._port

    @property
    def pid(self) -> int:
        """Process id of the running server, 0 when none was left running."""
        return self._pid

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended, by our doing or its own."""
        return self._pid != 0 and self._lifeline is not None and self._lifeline.running

    def wait_for_end(self, timeout_s: float) -> int | None:
        """Return the server's exit code (negative: a signal) once it has ended by itself.

        None when it has not within `timeout_s` seconds, or was not started.
        """
        return None if self._lifeline is None else self._lifeline.wait(timeout_s)

    @abstractmethod
    def start(self) -> None:
        """Return when the server serves; nothing when it does already."""

    def kill(self) -> None:
        """SIGKILL the server, then its children; return when all of them are gone."""
        if self._lifeline is None or not self.running:
            return
        self._lifeline.signal(signal.SIGKILL)
        if self._lifeline.wait(STOP_TIMEOUT_S) is None:
            raise PgfloError(SERVER_STOP, f"process {self._pid} survives SIGKILL")
        self._pid = 0

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): its connections stay open and nothing answers on them.

        PostgreSQL: the postmaster alone, so that new connections hang and old ones go on.
        """
        if self._lifeline is not None:
            self._lifeline.signal(signal.SIGSTOP)

    def unpause(self) -> None:
        """Let a frozen process go on."""
        if self._lifeline is not None:
            self._lifeline.signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop for good, and remove the directory if it is to be thrown away.

        Never raises for a server that resists: it is killed in the end.
        """
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
            self._pid = 0
        elif self._throw_away and self._claimed:
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

    def _open_lifeline(self) -> Lifeline:
        """Take the directory and its lock and return the guardian's wire, a new one if need be."""
        if self._lifeline is not None and self._lifeline.is_open:
            return self._lifeline
        if self._lifeline is not None:
            self._lifeline.close()
        claim_directory(self.directory, self._account, kind=self.kind)
        self._claimed = True
        lock = _take_lock(self.directory)
        try:
            remove = self.directory if self._throw_away else None
            self._lifeline = Lifeline(log=self.log_path, lock_fd=lock, remove=remove)
        finally:
            os.close(lock)  # the guardian has it now
        return self._lifeline

    def _run(self, launch: Launch, ready: Callable[[], bool]) -> None:
        """Start the program and return when `ready` says so.

        Raises `PgfloError`: PORT_TAKEN, or SERVER_START with the last lines of the log.
        """
        lifeline = self._open_lifeline()
        log_from = self.log_path.stat().st_size
        self._pid = lifeline.run(launch)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            code = lifeline.wait(READY_POLL_S)
            if code is not None or time.monotonic() > deadline:
                self._fail(code, log_from)

    def _fail(self, code: int | None, log_from: int) -> None:
        if code is None:
            self.kill()
        self._pid = 0
        with self.log_path.open("rb") as file:
            file.seek(log_from)
            said = file.read().decode(errors="replace")
        if IN_USE in said.lower():
            raise PgfloError(PORT_TAKEN, f"{self.title} cannot listen: its port is in use")
        why = "is not ready" if code is None else f"ended with code {code}"
        tail = "\n".join(said.splitlines()[-LOG_TAIL_LINES:])
        raise PgfloError(SERVER_START, f"{self.title} {why}; {self.log_path} ends:\n{tail}")

    def _stop(self, number: signal.Signals, timeout_s: float) -> None:
        """Send a signal and return when server and children are gone; nothing if it does not run.

        Raises `PgfloError` SERVER_STOP, having killed it, when that takes too long.
        """
        if self._lifeline is None or not self.running:
            return
        self._lifeline.signal(number)
        if self._lifeline.wait(timeout_s) is None:
            self.kill()
            raise PgfloError(
                SERVER_STOP,
                f"{self.title} did not stop within {timeout_s:g} s of {number.name} and was "
                f"killed; see {self.log_path}",
            )
        self._pid = 0
        if not self._throw_away:
            self._lifeline.close()
            self._lifeline = None


def _take_lock(directory: Path) -> int:
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(LOCK_POLL_S)
                continue
            os.close(lock)
            raise PgfloError(
                SERVER_START, f"another embedded server works on {directory}"
            ) from None
        return lock


def is_in_use(directory: Path) -> bool:
    """Whether an embedded server, or a guardian that cleans up after one, works on a directory."""
    try:
        lock = os.open(directory / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
