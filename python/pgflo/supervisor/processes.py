"""The multiprocessing context that every child process of ours comes from.

Upstream: replicator (copy processes, snapshot holder) and worker (writers).
Downstream: the forkserver, which has imported the slow modules once and forks children in 6 ms.
Invariant: children inherit no connection, thread or event loop, since the forkserver has none.
"""

from __future__ import annotations

import functools
import multiprocessing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

PRELOAD = ("psycopg", "nats", "orjson", "uvloop", "pydantic", "structlog", "pgflo._core")
"""Imported once, in the forkserver: nats alone costs 0.3 s. None of them starts a thread."""


@functools.cache
def context() -> ForkServerContext:
    """Give the forkserver context. The server starts with the first child and ends with us."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(list(PRELOAD))
    return forkserver
