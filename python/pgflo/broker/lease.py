"""One at a time: leases that say which process is the replicator, or a sink's worker.

Upstream: the process that wants to be the one. Downstream: `record` holds the key `lease.<key>`.
Invariant: a lease is taken over only by compare-and-set, and only when it did not change for
`EXPIRES_S` on the watcher's own monotonic clock, or its holder ran on this host and is gone. It
keeps honest processes apart; what keeps a zombie from doing harm is the chain of the stream and the
fence of the sink.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import structlog

from pgflo.broker.records import Stored
from pgflo.errors import GROUP_RUNNING, PgfloError

if TYPE_CHECKING:
    from pgflo.broker.record import Record

log = structlog.get_logger("pgflo.broker")

RENEW_S = 3.0
EXPIRES_S = 15.0
"""Five missed renewals."""

RELEASE_S = 3.0
LOOK_S = 0.5
"""Pause between two looks at somebody else's lease."""


@dataclass(frozen=True)
class LeaseRecord(Stored):
    """Who holds a lease; key `lease.<key>`."""

    holder: str
    """A UUID of this one holding."""
    host: str
    """Host name, for people."""
    place: str
    """Where `pid` means something: boot and process namespace."""
    pid: int
    started: float
    """When the process began, s since 1970: pids are used again."""
    renewals: int


class Lease:
    """A lease that is held and renewed until `release`; `lost` is set when somebody else has it."""

    def __init__(self, record: Record, key: str, mine: LeaseRecord, revision: int) -> None:
        self.lost = asyncio.Event()
        self._record = record
        self._key = f"lease.{key}"
        self._mine = mine
        self._revision = revision
        self._renewer = asyncio.create_task(self._renew(), name=f"lease {key}")
        self._renewer.add_done_callback(self._ended)

    @classmethod
    async def acquire(cls, record: Record, key: str, *, wait: bool) -> Lease:
        """Become the holder of `key` ("replicator", "sink.<name>").

        With `wait` as soon as the present holder ends or falls silent; otherwise `PgfloError`
        (GROUP_RUNNING) as soon as it gives a sign of life, which takes at most `RENEW_S` or so.
        """
        mine = _myself()
        seen_revision, since, told = -1, time.monotonic(), False
        while True:
            held = await _read(record, f"lease.{key}")
            if held is None or _is_gone(held[0]) or _has_expired(held[1], seen_revision, since):
                written = await record.replace(
                    f"lease.{key}", mine.to_json(), held[1] if held else None
                )
                if written is not None:
                    if held is not None:
                        log.warning(
                            "took over from a process that is gone", lease=key, **_who(held[0])
                        )
                    return cls(record, key, mine, written)
                continue
            holder, revision = held
            if not wait and (_is_here(holder) or revision != seen_revision != -1):
                raise PgfloError(
                    GROUP_RUNNING,
                    f"group {record.group_name}: {key} runs on {holder.host}, pid {holder.pid}",
                    host=holder.host,
                    pid=holder.pid,
                )
            if revision != seen_revision:
                seen_revision, since = revision, time.monotonic()
            if wait and not told:
                log.info("waiting for another process to end", lease=key, **_who(holder))
                told = True
            await asyncio.sleep(LOOK_S)

    async def release(self) -> None:
        """Give the lease back; a broker that is away does not hold us up: then it expires."""
        self._renewer.cancel()
        await asyncio.wait([self._renewer])
        if self.lost.is_set():
            return
        try:
            async with asyncio.timeout(RELEASE_S):
                # Asked anew: a renewal may have been under way.
                held = await _read(self._record, self._key)
                if held is not None and held[0].holder == self._mine.holder:
                    await self._record.remove(self._key, held[1])
        except (TimeoutError, PgfloError) as error:
            log.warning("cannot give the lease back", lease=self._key, error=str(error))

    def _ended(self, renewer: asyncio.Task[None]) -> None:
        if not renewer.cancelled() and renewer.exception() is not None:
            self.lost.set()

    async def _renew(self) -> None:
        while not self.lost.is_set():
            await asyncio.sleep(RENEW_S)
            try:
                await self._renew_once()
            except PgfloError as error:
                # Whoever wants the lease needs the broker as well: keep trying.
                log.warning("cannot renew the lease", lease=self._key, error=error.detail)

    async def _renew_once(self) -> None:
        renewed = replace(self._mine, renewals=self._mine.renewals + 1)
        written = await self._record.replace(self._key, renewed.to_json(), self._revision)
        if written is None:
            written = await self._reclaim(renewed)
        if written is None:
            self.lost.set()
        else:
            self._mine, self._revision = renewed, written

    async def _reclaim(self, renewed: LeaseRecord) -> int | None:
        """Hold on to a lease that still names us, or was forgotten; None when it is lost."""
        held = await _read(self._record, self._key)
        if held is not None and held[0].holder != self._mine.holder:
            log.error("the lease was taken over", lease=self._key, **_who(held[0]))
            return None
        return await self._record.replace(
            self._key, renewed.to_json(), None if held is None else held[1]
        )


async def is_held(record: Record, key: str) -> bool:
    """Whether somebody holds a lease, as far as can be told at once."""
    held = await _read(record, f"lease.{key}")
    return held is not None and not _is_gone(held[0])


async def _read(record: Record, key: str) -> tuple[LeaseRecord, int] | None:
    entry = await record.read(key)
    return None if entry is None else (LeaseRecord.from_json(entry[0], key=key), entry[1])


def _has_expired(revision: int, seen_revision: int, since: float) -> bool:
    return revision == seen_revision and time.monotonic() - since > EXPIRES_S


def _myself() -> LeaseRecord:
    return LeaseRecord(
        holder=str(uuid.uuid4()),
        host=socket.gethostname(),
        place=_place(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        renewals=0,
    )


@cache
def _place() -> str:
    """Name what processes share that see each other's pids: a boot, a process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - not a path
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _process_stands(holder: LeaseRecord) -> bool:
    try:
        process = psutil.Process(holder.pid)
        return (
            abs(process.create_time() - holder.started) < 1.0
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


def _is_gone(holder: LeaseRecord) -> bool:
    """Whether the holder ran where we can look, and is not there any more."""
    return holder.place == _place() and not _process_stands(holder)


def _is_here(holder: LeaseRecord) -> bool:
    """Whether the holder is another process that we can see.

    Our own pid says nothing: wait and see.
    """
    return holder.place == _place() and holder.pid != os.getpid() and _process_stands(holder)


def _who(holder: LeaseRecord) -> dict[str, str | int]:
    return {"host": holder.host, "pid": holder.pid}
