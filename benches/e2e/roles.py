"""Which part of the work a process does, told by its title.

Downstream: `usage.py`. Invariant: a process is counted under one role, or under none when it serves
neither contender: the bench's own sessions, other databases.
"""

from __future__ import annotations

import re

WALSENDER = "source walsender"
SOURCE_BACKEND = "source backend"
DESTINATION_BACKEND = "destination backend"
APPLY_WORKER = "native apply worker"
TABLE_SYNC = "native table sync worker"
BROKER = "broker"
DISPATCHER = "worker (dispatcher)"
IN_ORDER = (
    WALSENDER,
    SOURCE_BACKEND,
    "source server",
    "replicator",
    "snapshot",
    "copy process",
    "fork server",
    BROKER,
    DISPATCHER,
    "writer",
    "copy-writer",
    DESTINATION_BACKEND,
    APPLY_WORKER,
    TABLE_SYNC,
    "destination server",
)
"""The way of the data, which is how a report is sorted."""
NUMBERED = re.compile(r"pgflo \S+ (writer \d+|[a-z-]+)")
CLIENT = re.compile(r"postgres: \S+ (\S+) [\d.]+\(\d+\)")


def of_pgflo(title: str) -> str | None:
    """Tell the role of a pgflo process: writers one by one, copy processes together."""
    if title.startswith("pgflo replicate "):
        return "replicator"
    if title.startswith("pgflo worker "):
        return DISPATCHER
    if named := NUMBERED.match(title):
        return "copy process" if named[1] == "copy" else named[1]
    return "fork server" if "multiprocessing" in title else "starting"


def of_server(title: str, dbname: str, *, side: str) -> str | None:
    """Tell the role of a process of the server on `side`; other databases' sessions have none."""
    if title.startswith("postgres: walsender "):  # its database is not always in the title
        return WALSENDER
    if session := CLIENT.match(title):
        return f"{side} backend" if session[1] == dbname else None
    if "for subscription" in title:
        return TABLE_SYNC if "sync" in title else APPLY_WORKER
    return f"{side} server"


def place(role: str) -> int:
    """Sort key: where in the way of the data a role stands."""
    name = role.rstrip(" 0123456789")
    return IN_ORDER.index(name) if name in IN_ORDER else len(IN_ORDER)


def is_pgflo(role: str) -> bool:
    """Tell whether a role is one of pgflo's own processes."""
    return not role.startswith(("source ", "destination ", "native ")) and role != BROKER
