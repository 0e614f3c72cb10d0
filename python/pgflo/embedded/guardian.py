"""The process that a server is a child of: when whoever wanted the server is gone, so is it.

Run as a script (standard library only, so that it is up in 40 ms). Upstream: `lifeline.py`, which
starts it and talks to it in JSON lines over stdin and stdout. Downstream: one server at a time.

    in   {"remove": path or null}                      first line: what to remove at the end
    in   {"run": {argv, env, cwd, log, user, group, orphan_signal, ladder}}
    out  {"pid": n} or {"refused": why}
    in   {"signal": n}                                 to the server
    out  {"exit": code}                                the server and all its descendants are gone

The one argument is the number of an open file that holds the directory's lock: it passes on to the
server, so that the lock is free when the last process is gone.

Invariant: the server ends when this process ends, and this process ends when its parent does. The
parent's death shows as end of file on stdin and, should a forked child of the parent still hold the
other end of that pipe, on a pidfd. Descendants that outlive their server (PostgreSQL's backends
have sessions of their own, so no signal to a group reaches them) become children of this process,
the subreaper, and are killed here. Should this process itself be killed, the kernel sends the
server `orphan_signal`. On systems other than Linux the pipe is the only wire.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PARENT_POLL_MS = 500
"""How often the parent is looked for where the kernel has no pidfd."""
SWEEP_POLL_MS = 20
"""How often a killed descendant is looked at again: one in the middle of a disk write dies late."""


class Guardian:
    """One server at a time, its descendants, and the directory that goes last."""

    def __init__(self, lock_fd: int) -> None:
        self.lock_fd = lock_fd
        self.parent = os.getppid()
        self.prctl: Callable[..., int] | None = None
        self.remove: str | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.ladder: list[tuple[int, float]] = []
        self.pending = b""
        self.wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(self.wake_read, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.asked_to_end = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note_end)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        if sys.platform == "linux":
            self.prctl = ctypes.CDLL(None, use_errno=True).prctl
            self.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.parent_fd = self._open_parent()

    def serve(self) -> None:
        """Obey until the parent is gone or somebody asks for the end, then leave nothing behind."""
        poll = select.poll()
        for fd in (0, self.wake_read, self.parent_fd):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        timeout_ms = None if self.parent_fd is not None else PARENT_POLL_MS
        while not self.asked_to_end:
            ready = {fd for fd, _ in poll.poll(timeout_ms)}
            if self.parent_fd in ready or os.getppid() != self.parent:
                break
            self._drain_wakeups()
            if 0 in ready and not self._read_commands():
                break
            self._reap()
        self._end_server()
        if self.remove is not None:
            shutil.rmtree(self.remove, ignore_errors=True)

    def _note_end(self, _number: int, _frame: object) -> None:
        self.asked_to_end = True

    def _open_parent(self) -> int | None:
        if sys.platform != "linux":
            return None
        try:
            return os.pidfd_open(self.parent)
        except ProcessLookupError:
            sys.exit(0)  # gone before we looked
        except OSError:
            return None

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake_read, 512):
                pass

    def _read_commands(self) -> bool:
        block = os.read(0, 65536)
        *lines, self.pending = (self.pending + block).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        return bool(block)

    def _obey(self, command: dict[str, Any]) -> None:
        if "remove" in command:
            self.remove = command["remove"]
        elif "run" in command:
            self._run(command["run"])
        else:
            self._signal(command["signal"])

    def _run(self, run: dict[str, Any]) -> None:
        orphan_signal, prctl, guardian = run["orphan_signal"], self.prctl, os.getpid()

        def follow_to_death() -> None:
            # Runs after the change of user, which would have cleared the setting.
            if prctl is not None:
                prctl(PR_SET_PDEATHSIG, orphan_signal, 0, 0, 0)
                if os.getppid() != guardian:
                    os.kill(os.getpid(), signal.SIGKILL)

        log = os.open(run["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.server = subprocess.Popen(
                run["argv"],
                env=run["env"],
                cwd=run["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=run["user"],
                group=run["group"],
                extra_groups=None if run["user"] is None else [],
                start_new_session=True,
                umask=0o077,
                pass_fds=(self.lock_fd,),
                preexec_fn=follow_to_death,  # noqa: PLW1509 - this process has one thread
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._say({"refused": str(error)})
            return
        finally:
            os.close(log)
        self.ladder = [(number, seconds) for number, seconds in run["ladder"]]
        self._say({"pid": self.server.pid})

    def _signal(self, number: int) -> None:
        """Signal the server. Not by `Popen.send_signal`, which reaps, and then `_reap` cannot."""
        if self.server is not None:
            os.kill(self.server.pid, number)

    def _reap(self) -> None:
        """Collect whoever ended. Is it the server, its descendants follow; then it is told."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.server is not None and pid == self.server.pid:
                code = os.waitstatus_to_exitcode(status)
                self.server.returncode = code
                self.server = None
                self._sweep()
                self._say({"exit": code})

    def _sweep(self) -> None:
        """Kill descendants until none is left: each death may hand us the next generation."""
        poll = select.poll()
        poll.register(self.wake_read, select.POLLIN)
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                for child in _children_of(os.getpid()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                poll.poll(SWEEP_POLL_MS)
                self._drain_wakeups()

    def _end_server(self) -> None:
        poll = select.poll()
        poll.register(self.wake_read, select.POLLIN)
        for number, seconds in [*self.ladder, (signal.SIGKILL, float("inf"))]:
            if self.server is None:
                return
            self._signal(number)
            self._signal(signal.SIGCONT)  # should it have been stopped
            deadline = time.monotonic() + seconds
            while self.server is not None and time.monotonic() < deadline:
                poll.poll(100)
                self._drain_wakeups()
                self._reap()

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(1, json.dumps(message).encode() + b"\n")


def _children_of(parent: int) -> list[int]:
    """Children of a process after /proc. Empty where there is none: no subreaper there either."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name in parentheses may hold spaces and parentheses itself.
            after_name = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            if int(after_name[1]) == parent:
                found.append(int(entry.name))
    return found


if __name__ == "__main__":
    Guardian(int(sys.argv[1])).serve()
