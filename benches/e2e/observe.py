"""Everything that is watched while one contender works: costs by role, and a profile when asked.

Upstream: the measurements. Downstream: `usage.py`, `profile.py`. Invariant: the bench's own
sessions, given as connections, are in no figure.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benches.e2e import roles
from benches.e2e.profile import Profile, profiled
from benches.e2e.usage import Root, Usage, sampled

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

    import psycopg

    from benches.e2e.contenders import Native, Pgflo
    from benches.e2e.usage import Costs


@dataclass(frozen=True)
class Piece:
    """One contender's time for a piece of work, and what it cost."""

    seconds: float
    costs: Costs


def _server_roots(contender: Pgflo | Native) -> list[Root]:
    bed = contender.bed
    source = partial(roles.of_server, dbname=contender.source_db, side="source")
    target = partial(roles.of_server, dbname=contender.target_db, side="destination")
    return [
        Root(bed.source.pid, source, shares_buffers=True),
        Root(bed.target.pid, target, shares_buffers=True),
    ]


@contextlib.contextmanager
def watched_native(native: Native, *own: psycopg.Connection) -> Iterator[Usage]:
    """Watch the servers while the subscription works; `own` are the bench's sessions."""
    usage = Usage(_server_roots(native), _pids(own))
    with sampled(usage):
        yield usage


@contextlib.contextmanager
def watched_pgflo(
    ours: Pgflo, processes: Sequence[subprocess.Popen[bytes]], *own: psycopg.Connection
) -> Iterator[Usage]:
    """Watch servers, broker and pgflo's `processes`; print the profile if the run has one."""
    broker = Root(ours.bed.broker.pid, lambda _title: roles.BROKER)
    commands = [Root(process.pid, roles.of_pgflo) for process in processes]
    usage = Usage([*_server_roots(ours), broker, *commands], _pids(own))
    with contextlib.ExitStack() as stack:
        profile = Profile(ours.bed, ours.target_db, _pids(own)) if ours.bed.profile else None
        if profile:
            stack.enter_context(profiled(profile))
        stack.enter_context(sampled(usage))
        yield usage
    if profile:
        print(profile.report(), flush=True)


def _pids(own: Sequence[psycopg.Connection]) -> frozenset[int]:
    return frozenset(conn.info.backend_pid for conn in own)
