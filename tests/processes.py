"""The processes that a test can see, some of which may end while it looks.

Upstream: tests and fixtures. Downstream: psutil. Invariant: a process that ends between being
found and being asked is passed over; it never fails the one who looks.
"""

from __future__ import annotations

import contextlib

import psutil

FORK_SERVER = "multiprocessing.forkserver"


def descendants(title: str = "", of: psutil.Process | int | None = None) -> list[psutil.Process]:
    """Give the living descendants of a process whose command line contains `title`.

    `of`: this process, unless another one (or its pid) is named; none of one that has ended.
    """
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = of if isinstance(of, psutil.Process) else psutil.Process(of)
        for child in parent.children(recursive=True):
            shown = command_line(child)
            # A fork server names the modules that it has imported: what is asked for may be one.
            if title in shown and (title in FORK_SERVER or FORK_SERVER not in shown):
                found.append(child)
    return found


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def command_line(process: psutil.Process) -> str:
    """Give what a process shows as its command line, or its name; nothing if it has ended."""
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.NoSuchProcess:  # a zombie is one as well
        return ""
