"""`kill -USR1` shows where a command that seems to stand is waiting."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.fix_pipeline import eventually

if TYPE_CHECKING:
    from tests.fix_pipeline import Pipeline


def test_usr1_logs_the_innermost_line_that_each_task_waits_at(pipeline: Pipeline) -> None:
    worker = pipeline.worker()
    eventually(lambda: "waiting for the group" in worker.tail(), "a worker without a group")
    assert worker.log_tasks()
    # Not only the command's outermost line, but through `run` down to the wait of the event loop.
    eventually(
        lambda: re.search(r'"cli/worker.py:\d+ > worker/run.py:\d+ > .*asyncio/', worker.tail()),
        "the chain of lines of the worker's task",
    )
    assert worker.exit_code() is None
