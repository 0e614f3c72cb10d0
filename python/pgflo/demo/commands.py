"""The commands that the demo types: shown first, then run, then watched.

Upstream: the demo. Downstream: `python -m pgflo …` processes, with their logs in files.
Invariant: what is shown is what is run (only `pgflo` stands for the program), and every process is
gone when its context is left.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import psutil

from pgflo.errors import Exit, Kind, PgfloError, Retry
from pgflo.supervisor.lifeline import SUPERVISOR_FD
from pgflo.supervisor.tree import inherited_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

STOP_S = 30.0
LOG_LINES = 15

COMMAND_FAILED = Kind(
    "demo.command_failed",
    Exit.INTERNAL,
    Retry.OPERATOR,
    "Read the logs above; `pgflo version` tells what belongs into a report.",
)
TOO_SLOW = Kind(
    "demo.too_slow",
    Exit.INTERNAL,
    Retry.OPERATOR,
    "The logs above tell where it stands; start `pgflo demo` again on a less busy machine.",
)


class Command:
    """One long-running command."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.arguments = arguments
        self.log = log
        self.peak_bytes = 0
        # While this end is open the command lives: kill -9 of the demo takes it along.
        self._lifeline, theirs = socket.socketpair()
        with log.open("wb") as stream, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pgflo", *arguments],
                env={**inherited_environment(), **environment, SUPERVISOR_FD: str(theirs.fileno())},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._lifeline.close()

    def check(self) -> None:
        """Raise if it has ended, with the end of its log."""
        code = self._process.poll()
        if code is not None:
            raise failed(self.arguments, code, self.log)

    def stop(self) -> None:
        """Ask to stop, wait for it, and raise unless it ends with 0."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_S)
        if code:
            raise failed(self.arguments, code, self.log)

    def measure(self) -> None:
        """Take the memory of all its processes; shared pages count once, in shares (PSS)."""
        self.peak_bytes = max(self.peak_bytes, sum(_memory(one) for one in self._family()))

    def _family(self) -> Iterator[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            own = psutil.Process(self._process.pid)
            yield own
            for child in own.children(recursive=True):
                # The embedded broker is a program of its own, with its own budget.
                with contextlib.suppress(psutil.Error):
                    if "nats-server" not in child.name():
                        yield child


def _memory(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(full, "pss", full.rss))


def too_slow(what: str) -> PgfloError:
    """Tell that the demo gave up waiting."""
    return PgfloError(TOO_SLOW, what)


def failed(arguments: list[str], code: int, log: Path) -> PgfloError:
    """Tell that a command of the demo failed."""
    try:
        kept = Exit(code)
    except ValueError:
        kept = Exit.INTERNAL
    return PgfloError(
        Kind(COMMAND_FAILED.code, kept, COMMAND_FAILED.retry, COMMAND_FAILED.hint),
        f"`{written(arguments)}` ended with {code}; see {log.name} above",
    )


def run_once(arguments: list[str], environment: Mapping[str, str], log: Path) -> str:
    """Run a command to its end and give its stdout. Raises unless it ends with 0."""
    with log.open("wb") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "pgflo", *arguments],
            env={**inherited_environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            check=False,
        )
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        with log.open("a") as stream:
            stream.write(output)
        raise failed(arguments, done.returncode, log)
    return output


def written(arguments: list[str]) -> str:
    """Write a command as a user would type it."""
    return shlex.join(["pgflo", *arguments])
