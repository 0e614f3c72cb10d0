"""The wire between this process and the guardian under which a server runs.

Upstream: `postgres.py`, `nats.py`. Downstream: `guardian.py`, one process per server.
Invariant: while a `Lifeline` is open, the server it runs cannot outlive this process, whatever ends
this process; with `remove`, neither can the directory.

    this process ──pipe──► guardian (own session, same user) ──► server (own session, its own user)

Two seconds after a `kill -9` of this process there is no server, no child of it and no directory.
Calls of one object must not overlap.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgflo.errors import SERVER_START, PgfloError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GUARDIAN = Path(__file__).with_name("guardian.py")
REPLY_TIMEOUT_S = 30.0
"""Longest wait for the guardian's answer to a start. 50 ms is usual, on a loaded machine more."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run, as whom, and how it ends when nobody is left to ask for it."""

    argv: Sequence[str]
    cwd: Path
    log: Path
    env: Mapping[str, str]
    user: int | None = None
    """Numeric user and group to switch to; None runs it as the caller."""
    group: int | None = None
    ladder: Sequence[tuple[signal.Signals, float]] = field(default=((signal.SIGTERM, 5.0),))
    """Signals, and seconds to wait after each, once the parent is gone; SIGKILL comes last."""
    orphan_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends when the guardian itself is killed (Linux)."""


class Lifeline:
    """A guardian process, open from `__init__` to `close`; runs one program at a time."""

    def __init__(self, *, log: Path, lock_fd: int, remove: Path | None = None) -> None:
        """Start the guardian. It and what it runs hold the open file `lock_fd`.

        `remove` is a directory that goes with this object or process.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        log_fd = os.open(log, flags, 0o600)
        try:
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARDIAN), str(lock_fd)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_fd,
                cwd="/",
                start_new_session=True,
                pass_fds=(lock_fd,),
            )
        finally:
            os.close(log_fd)
        self._remove = remove
        self._pending = b""
        self._running = False
        self._exit_code: int | None = None
        self._say({"remove": None if remove is None else str(remove)})

    @property
    def is_open(self) -> bool:
        """Whether the guardian is there: it is until `close`, unless somebody kills it."""
        return self._guardian.poll() is None

    @property
    def running(self) -> bool:
        """Whether the program that was started last has not ended yet."""
        return self._running and self.wait(0) is None

    def run(self, launch: Launch) -> int:
        """Start a program, return its process id. `PgfloError` when it cannot be executed."""
        self._exit_code = None
        self._say(
            {
                "run": {
                    "argv": list(launch.argv),
                    "env": dict(launch.env),
                    "cwd": str(launch.cwd),
                    "log": str(launch.log),
                    "user": launch.user,
                    "group": launch.group,
                    "orphan_signal": int(launch.orphan_signal),
                    "ladder": [(int(number), seconds) for number, seconds in launch.ladder],
                }
            }
        )
        answer = self._listen(REPLY_TIMEOUT_S)
        if answer is None or "refused" in answer:
            why = "its guardian process does not answer" if answer is None else answer["refused"]
            raise PgfloError(SERVER_START, f"{launch.argv[0]} cannot be started: {why}")
        self._running = True
        pid = answer["pid"]
        assert isinstance(pid, int)  # noqa: S101 - the guardian's protocol
        return pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program; nothing when it has ended (a reused pid is not hit)."""
        self._say({"signal": int(number)})

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code (negative: a signal) once program and descendants are gone.

        None when that has not happened within `timeout_s` seconds, or nothing was started. A
        guardian that was killed counts as a program that was killed: the kernel sees to that.
        """
        if self._running:
            answer = self._listen(timeout_s)
            if answer is not None:
                self._running = False
                self._exit_code = answer["exit"]
        return None if self._running else self._exit_code

    def run_to_end(self, launch: Launch, timeout_s: float) -> int:
        """Run a program and return its exit code; one that takes longer is killed, which is -9."""
        self.run(launch)
        code = self.wait(timeout_s)
        if code is None:
            self.signal(signal.SIGKILL)
            code = self.wait(REPLY_TIMEOUT_S)
        return -int(signal.SIGKILL) if code is None else code

    def close(self, timeout_s: float = 60.0) -> None:
        """End the program by its ladder, remove what is to be removed, end the guardian."""
        for pipe in (self._guardian.stdin, self._guardian.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._guardian.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._guardian.kill()  # the kernel passes `orphan_signal` on
            self._guardian.wait()
        self._running = False
        if self._remove is not None:
            shutil.rmtree(self._remove, ignore_errors=True)  # there only if the guardian was killed

    def _say(self, message: dict[str, Any]) -> None:
        pipe = self._guardian.stdin
        if pipe is None or pipe.closed:
            raise PgfloError(SERVER_START, "the server's lifeline has been closed")
        try:
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError as error:
            raise PgfloError(SERVER_START, "the server's guardian process was killed") from error

    def _listen(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next message of the guardian, None after `timeout_s` seconds of silence."""
        pipe = self._guardian.stdout
        if pipe is None or pipe.closed:
            return None
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while b"\n" not in self._pending:
            left_ms = max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left_ms):
                return None
            block = os.read(pipe.fileno(), 65536)
            if not block:
                return {"exit": -int(signal.SIGKILL), "refused": "its guardian process was killed"}
            self._pending += block
        line, _, self._pending = self._pending.partition(b"\n")
        answer = json.loads(line)
        assert isinstance(answer, dict)  # noqa: S101 - the guardian's protocol
        return answer
