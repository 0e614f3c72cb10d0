"""A process that ends when its parent does, however the parent ended.

Upstream: the first line of every child process. Downstream: the operating system.
Invariant: a child outlives its parent by milliseconds at most. It exits without clean-up, which is
allowed: whatever a process leaves half done, the next start finds and finishes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgflo.errors import PgfloError

PARENT_DIED = 1
"""Exit code of a child whose parent went away; nobody is left to read it."""

SUPERVISOR_FD = "PGFLO_SUPERVISOR_FD"
"""Environment variable with the descriptor of a socket; the supervisor holds the other end."""

_supervisor: list[int] = []


def die_with_parent() -> None:
    """Exit when the process that started this one by multiprocessing ends; ignore Ctrl-C.

    A terminal sends SIGINT to the whole process group; only the parent decides what it means.
    """
    import multiprocessing  # 30 ms that `pgflo --help` can do without

    parent = multiprocessing.parent_process()
    if parent is None:
        message = "die_with_parent() belongs into a process that multiprocessing started"
        raise RuntimeError(message)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(
        target=_exit_when_ready, args=(parent.sentinel,), name="lifeline", daemon=True
    ).start()


def follow_supervisor() -> None:
    """Exit when the supervisor that started this program is gone; without one do nothing."""
    number = os.environ.pop(SUPERVISOR_FD, None)
    if number is None:
        return
    descriptor = int(number)
    os.set_inheritable(descriptor, False)
    _supervisor[:] = [descriptor]
    threading.Thread(
        target=_exit_when_ready, args=(descriptor,), name="lifeline", daemon=True
    ).start()


def tell_supervisor(failure: PgfloError) -> None:
    """Tell why this program ends, since an exit code does not say whether time can heal it."""
    for descriptor in _supervisor:
        verdict = f"{failure.kind.retry.value} {failure.kind.code}\n"
        with contextlib.suppress(OSError):
            os.write(descriptor, verdict.encode())


def _exit_when_ready(descriptor: int) -> None:
    wait = select.poll()
    wait.register(descriptor, select.POLLIN | select.POLLHUP)
    wait.poll()
    os._exit(PARENT_DIED)
