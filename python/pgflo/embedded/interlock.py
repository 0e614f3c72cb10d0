"""The System V shared memory segment by which PostgreSQL notices a second server on its data.

Upstream: `postgres.py`, after a kill. The kernel keeps such a segment (56 bytes) when its processes
are gone, until the next start on the same data or a reboot. Thrown-away data has no next
start.
Invariant: called only when no process of the server is left; nothing else is ever removed, for the
segment's id and key both must be those of `postmaster.pid`.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

IPC_RMID = 0
SHMEM_LINE = 6
"""Line of postmaster.pid, from 0, that reads `key id`."""


def remove_interlock(data: Path) -> bool:
    """Remove the segment that a killed server left; False when there is none."""
    segment = _segment_id(data / "postmaster.pid")
    if segment is None or sys.platform != "linux":
        return False
    shmctl = ctypes.CDLL(None, use_errno=True).shmctl
    return bool(shmctl(segment, IPC_RMID, None) == 0)


def _segment_id(pid_file: Path) -> int | None:
    try:
        key, segment = pid_file.read_text().splitlines()[SHMEM_LINE].split()
        wanted = (int(key), int(segment))
        listed = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    except (OSError, IndexError, ValueError):
        return None
    keys = {(int(fields[0]), int(fields[1])) for fields in map(str.split, listed)}
    return wanted[1] if wanted in keys else None
