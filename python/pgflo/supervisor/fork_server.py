"""What a fork server does before it imports what children need, and when it ends.

Upstream: `processes`, which has each fork server import this first. Garbage is not looked for
meanwhile: what is imported stays, and looking through it again and again takes a tenth of that. The
directory of its socket belongs to the process that started the fork server, and goes when that one
ends by itself; a killed one leaves it, so the fork server removes it.
Invariant: a fork server ends when nobody is left who could ask it for a child, so nobody needs it.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil

from pgflo.supervisor.processes import SOCKET_DIRECTORY

if directory := os.environ.get(SOCKET_DIRECTORY):
    # Children leave by `os._exit`: this runs in none of them.
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    gc.disable()
