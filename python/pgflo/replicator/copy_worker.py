"""The coordinator's handle of one copy process.

Upstream: the copy hands over a range. Downstream: `copy_process` at the other end of a pipe.
Invariant: one range at a time; a process that ends in the middle of one shows as `WorkerGone`, at
once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo.replicator.copy_process import CopyJob, RangeReport, RangeTask, run_copy_process
from pgflo.source.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable

ENDED = RangeReport("gone", text="the copy process ended")


class WorkerGone(Exception):  # noqa: N818 - an event that the coordinator expects, not a mistake
    """The process ended, or cannot go on; `report` tells why."""

    def __init__(self, report: RangeReport) -> None:
        super().__init__(report.text)
        self.report = report


class CopyWorker:
    """A copy process. Making one starts it; `stop` ends it."""

    def __init__(self, job: CopyJob) -> None:
        name = f"pgflo {job.group} copy {job.lane}"
        self._child: Child[RangeReport] = Child(run_copy_process, (job,), name)
        self._busy = False

    async def copy(self, task: RangeTask, moved: Callable[[RangeReport], None]) -> RangeReport:
        """Have one range copied; `moved` hears how far it is. Gives `done` or `broken`.

        Raises `WorkerGone`.
        """
        self._busy = True
        try:
            self._child.send(task)
        except OSError:
            raise WorkerGone(await self._last_words()) from None
        while True:
            report = await self._child.reports.get()
            if report is None or report.event in ("gone", "failed"):
                raise WorkerGone(report or ENDED)
            if report.event != "moved":
                self._busy = False
                return report
            moved(report)

    async def stop(self) -> None:
        """End the process, by force in the middle of a range: that may happen anyway."""
        await self._child.stop(kill=self._busy)

    async def _last_words(self) -> RangeReport:
        while (report := await self._child.reports.get()) is not None:
            if report.event in ("gone", "failed"):
                return report
        return ENDED
