"""The coordinator's handle of one copy process.

Upstream: the copy hands over a range. Downstream: `copy_process` at the other end of a pipe.
Invariant: one range at a time; a process that ends in the middle of one shows as `WorkerGone`, at
once.
"""

from __future__ import annotations

import asyncio
from multiprocessing import forkserver
from typing import TYPE_CHECKING

from pgflo.replicator.copy_process import CopyJob, RangeReport, RangeTask, run_copy_process
from pgflo.supervisor.processes import PRELOAD, context

if TYPE_CHECKING:
    from collections.abc import Callable

STOP_S = 5.0
"""Seconds for a process to end by itself after its pipe is closed."""


def warm_up() -> None:
    """Start the process that copy processes are forked from; its imports overlap with our start.

    Returns at once. Nothing happens if it runs already.
    """
    context().set_forkserver_preload([*PRELOAD, __name__, "pgflo.source.snapshot"])
    forkserver.ensure_running()


class WorkerGone(Exception):  # noqa: N818 - an event that the coordinator expects, not a mistake
    """The process ended, or cannot go on; `report` tells why."""

    def __init__(self, report: RangeReport) -> None:
        super().__init__(report.text)
        self.report = report


class CopyWorker:
    """A copy process and the pipe to it. Starts the process; `stop` ends it."""

    def __init__(self, job: CopyJob) -> None:
        self._pipe, child = context().Pipe()
        self._process = context().Process(
            target=run_copy_process,
            args=(child, job),
            name=f"pgflo {job.group} copy {job.lane}",
            daemon=True,
        )
        self._process.start()
        child.close()
        self._reports: asyncio.Queue[RangeReport | None] = asyncio.Queue()
        self._busy = False
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._read)

    async def copy(self, task: RangeTask, moved: Callable[[RangeReport], None]) -> RangeReport:
        """Have one range copied; `moved` hears how far it is. Gives `done` or `broken`.

        Raises `WorkerGone`.
        """
        self._busy = True
        try:
            self._pipe.send(task)
        except OSError:
            raise WorkerGone(await self._last_words()) from None
        while True:
            report = await self._reports.get()
            if report is None:
                raise WorkerGone(RangeReport("gone", text="the copy process ended"))
            if report.event in ("gone", "failed"):
                raise WorkerGone(report)
            if report.event != "moved":
                self._busy = False
                return report
            moved(report)

    async def stop(self) -> None:
        """End the process, by force in the middle of a range: that may happen anyway."""
        self._close()
        if self._busy:
            self._process.kill()
        await asyncio.to_thread(self._process.join, STOP_S)
        if self._process.is_alive():
            self._process.kill()
            await asyncio.to_thread(self._process.join)

    async def _last_words(self) -> RangeReport:
        while (report := await self._reports.get()) is not None:
            if report.event in ("gone", "failed"):
                return report
        return RangeReport("gone", text="the copy process ended")

    def _read(self) -> None:
        try:
            report: RangeReport = self._pipe.recv()
        except (EOFError, OSError):
            self._close()
            self._reports.put_nowait(None)
            return
        self._reports.put_nowait(report)

    def _close(self) -> None:
        if not self._pipe.closed:
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            self._pipe.close()
