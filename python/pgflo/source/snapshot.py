"""The replicator's handle of the process that holds a copy's snapshot.

Upstream: creation has a snapshot that a slot exported. Downstream: `snapshot_process`, through its
standard input and output; `shared_snapshot` uses what it holds.
Invariant: the process stays when this handle, or the replicator, is gone without a word; only
`stop` ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import structlog

from pgflo import errors
from pgflo.broker.records import SnapshotRecord
from pgflo.errors import PgfloError
from pgflo.source.snapshot_process import END, HoldJob, HoldReport
from pgflo.supervisor.race import undivided

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger("pgflo.source")

END_S = 5.0
"""Seconds for the process to end when asked to; then it is killed."""

READ_BYTES = 64 * 1024

_LEFT: list[subprocess.Popen[bytes]] = []
"""Processes we parted from: their end is still ours to notice, while we live."""


class SnapshotHolder:
    """A holder process. `spawn`, `take`, `lock`; then it holds until `stop`, or for its linger."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pgflo.source.snapshot_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Whoever reads our own output must not wait for the end of a process that stays.
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._reports: asyncio.Queue[HoldReport | None] = asyncio.Queue()
        self._unread = b""
        self._imported: HoldReport | None = None
        if self._process.stdin is None or self._process.stdout is None:
            message = "a holder without pipes"
            raise RuntimeError(message)
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        asyncio.get_running_loop().add_reader(self._output.fileno(), self._read)

    @classmethod
    def spawn(cls) -> SnapshotHolder:
        """Start the process; its imports overlap with what we do until `take`."""
        return cls()

    async def take(
        self,
        conninfo: str,
        group: str,
        tables: Mapping[int, tuple[str, str]],
        snapshot: str | None,
        linger_s: float,
    ) -> None:
        """Have it import `snapshot` (or take one, for None), and wait until it has.

        Afterwards the session that exported `snapshot` is free for other commands.
        """
        names = [(oid, *name) for oid, name in tables.items()]
        job = HoldJob(conninfo, group, names, snapshot, linger_s)
        line = json.dumps(dataclasses.asdict(job)).encode() + b"\n"
        await asyncio.to_thread(self._write, line)
        self._imported = await self._expect("imported")

    async def lock(self) -> SnapshotRecord:
        """Wait until every table is locked and known to be the one that the snapshot saw.

        Gives what others need to use it; its `lsn` is the position of the source's WAL when the
        holder took its own snapshot. Reports who is in the way. Raises `PgfloError`:
        TABLE_REWRITTEN (take another snapshot), COPY_BROKEN.
        """
        ready = await self._expect("ready")
        if self._imported is None:
            message = "lock() comes after take()"
            raise RuntimeError(message)
        return SnapshotRecord(
            name=ready.snapshot,
            lsn=ready.lsn,
            backend_pid=self._imported.backend_pid,
            backend_start=self._imported.backend_start,
            pid=self._process.pid,
            host=socket.gethostname(),
        )

    async def stop(self) -> None:
        """Let the snapshot and the locks go. Returns when the process is gone.

        A stop that was cancelled may be asked for again.
        """
        if not self._input.closed:
            await undivided(functools.partial(self._write, END))
        self.leave()
        try:
            await asyncio.to_thread(self._process.wait, END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def leave(self) -> None:
        """Part from the process, which stays for its linger."""
        self._stop_reading()
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        _LEFT[:] = [process for process in (*_LEFT, self._process) if process.poll() is None]

    def _write(self, line: bytes) -> None:
        # A process that is gone tells why by its last report, or by the end of its output.
        with contextlib.suppress(BrokenPipeError):
            self._input.write(line)
            self._input.flush()

    def _read(self) -> None:
        block = os.read(self._output.fileno(), READ_BYTES)
        if not block:
            self._stop_reading()
            self._reports.put_nowait(None)
            return
        *lines, self._unread = (self._unread + block).split(b"\n")
        for line in lines:
            self._reports.put_nowait(HoldReport(**json.loads(line)))

    def _stop_reading(self) -> None:
        if not self._output.closed:
            asyncio.get_running_loop().remove_reader(self._output.fileno())
            self._output.close()

    async def _expect(self, event: str) -> HoldReport:
        while True:
            report = await self._reports.get()
            if report is None:
                raise PgfloError(errors.COPY_BROKEN, "the process that holds the snapshot ended")
            if report.event == event:
                return report
            if report.event == "blocked":
                log.warning("the copy waits for a lock", blocked_by=report.text)
            elif report.event == "rewritten":
                raise PgfloError(
                    errors.TABLE_REWRITTEN,
                    f"{report.text} was rewritten or truncated after the snapshot was taken",
                )
            else:
                kind = errors.COPY_BROKEN if report.heals else errors.SOURCE_FAILED
                raise PgfloError(kind, f"cannot hold the snapshot: {report.text}")
