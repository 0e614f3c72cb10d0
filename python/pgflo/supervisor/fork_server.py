"""What a fork server does before it imports what children need, and when it ends.

Upstream: `processes`, which has each fork server import this first. Garbage is not looked for
meanwhile: what is imported stays, and looking through it again and again takes a tenth of that. The
directory of its socket belongs to the process that started the fork server, and goes when that one
ends by itself; a killed one leaves it, so the fork server removes it.
Invariant: the directory stays while the process that started the fork server lives, whatever the
fork server ends by.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import time
from functools import partial

from pgflo.supervisor.processes import SOCKET_DIRECTORY

LAST_BREATH_S = 1.0
"""A process that is killed closes its pipes, by which we end, shortly before it is gone."""


def _remove(directory: str, parent_pid: int) -> None:
    """Remove the directory unless its owner lives: the next fork server would need it."""
    deadline = time.monotonic() + LAST_BREATH_S
    while os.getppid() == parent_pid and time.monotonic() < deadline:
        time.sleep(0.01)
    if os.getppid() != parent_pid:
        shutil.rmtree(directory, ignore_errors=True)


if directory := os.environ.get(SOCKET_DIRECTORY):
    # Children leave by `os._exit`: this runs in none of them.
    atexit.register(partial(_remove, directory, os.getppid()))
    gc.disable()
