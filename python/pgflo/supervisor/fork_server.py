"""The last thing that a fork server does: it removes the directory of its socket.

Upstream: `processes`, which has each fork server import this first. The directory belongs to the
process that started the fork server, and goes when that one ends by itself; a killed one leaves it.
Invariant: a fork server ends when nobody is left who could ask it for a child, so nobody needs it.
"""

from __future__ import annotations

import atexit
import os
import shutil

from pgflo.supervisor.processes import SOCKET_DIRECTORY

if directory := os.environ.get(SOCKET_DIRECTORY):
    # Children leave by `os._exit`: this runs in none of them.
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
