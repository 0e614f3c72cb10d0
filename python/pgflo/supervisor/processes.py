"""The multiprocessing context that every child process of ours comes from.

Upstream: replicator (copy processes) and worker (writers).
Downstream: the forkserver, which has imported the slow modules once and forks children in 6 ms.
Invariant: children inherit no connection, thread or event loop, since the forkserver has none.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from multiprocessing import forkserver, util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.context import ForkServerContext

SOCKET_DIRECTORY = "PGFLO_FORK_SERVER_DIRECTORY"
"""Environment variable that tells a fork server where its socket is; see `fork_server`."""

FIRST, LAST = "pgflo.supervisor.fork_server", "pgflo.supervisor.fork_server_ready"
"""What stands around the imports of every fork server."""

REPLICATOR_CHILDREN = ("uvloop", "pgflo.logs", "pgflo.replicator.copy_process")
WORKER_CHILDREN = (
    "uvloop",
    "pgflo.logs",
    "pgflo.worker.copy_writer",
    "pgflo.worker.writer",
    "pgflo.sinks.postgres.sink",
    "pgflo.sinks.lines",
)
"""What children run, with all that it imports: once, in the forkserver, 0.3 s of CPU in place of so
much in each of them; `pgflo.logs` before what it makes lean. None of it starts a thread."""


@functools.cache
def context() -> ForkServerContext:
    """Give the forkserver context. The server starts with the first child and ends with us."""
    made = multiprocessing.get_context("forkserver")
    os.environ[SOCKET_DIRECTORY] = util.get_temp_dir()
    made.set_forkserver_preload([FIRST, LAST])
    return made


def warm_up(modules: Sequence[str]) -> None:
    """Start the forkserver, which imports `modules` beside our own imports. Returns at once.

    Nothing happens if it runs already.
    """
    context().set_forkserver_preload([FIRST, *modules, LAST])
    forkserver.ensure_running()
