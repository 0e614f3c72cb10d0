"""A worker that was stopped, replaced and woken again does no harm, and says why it ends."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.fix_pipeline import eventually
from tests.processes import descendants

from pgflo.errors import Exit

if TYPE_CHECKING:
    from tests.fix_pipeline import Command, Pipeline


def signal_all(command: Command, number: signal.Signals) -> None:
    """Send a signal to a command and all its processes."""
    for each in [psutil.Process(command.pid), *descendants(of=command.pid)]:
        each.send_signal(number)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("shards", ["1", "2"])
def test_a_worker_that_was_taken_for_dead_ends_with_exit_8(pipeline: Pipeline, shards: str) -> None:
    # GIVEN a worker whose processes all stand still, and a table that shows a repeated change
    pipeline.source.execute("CREATE TABLE log (n int); ALTER TABLE log REPLICA IDENTITY FULL")
    pipeline.source.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    pipeline.copy_schema()
    pipeline.replicate()
    stopped = pipeline.worker("--shards", shards)
    pipeline.source.execute("INSERT INTO log VALUES (1)")
    pipeline.source.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g")
    pipeline.wait_caught_up()
    signal_all(stopped, signal.SIGSTOP)
    pipeline.source.execute("INSERT INTO log SELECT generate_series(2, 100)")
    pipeline.source.execute("UPDATE t SET v = v + 1; TRUNCATE t; INSERT INTO t VALUES (1, 1)")
    # WHEN another one takes over, and the first wakes up
    pipeline.worker("--shards", shards)
    pipeline.wait_caught_up()
    signal_all(stopped, signal.SIGCONT)
    # THEN the first ends, and the second goes on
    assert stopped.wait() == Exit.RUNNING
    pipeline.commands.remove(stopped)
    pipeline.source.execute("INSERT INTO log VALUES (101)")
    pipeline.wait_caught_up()
    pipeline.assert_identical()


@pytest.mark.timeout(180)
def test_a_writer_alone_that_stood_still_commits_nothing_more(pipeline: Pipeline) -> None:
    pipeline.source.execute("CREATE TABLE log (n int); ALTER TABLE log REPLICA IDENTITY FULL")
    pipeline.copy_schema()
    pipeline.replicate()
    first = pipeline.worker()
    pipeline.source.execute("INSERT INTO log VALUES (1)")
    pipeline.wait_caught_up()
    # GIVEN a writer that stands still with changes in its pipe, and a worker that is killed
    (writer,) = eventually(lambda: first.children("writer 0"), "a writer")
    writer.suspend()
    pipeline.source.execute("INSERT INTO log SELECT generate_series(2, 100)")
    first.kill()
    pipeline.commands.remove(first)
    # WHEN another worker has applied them, and the writer wakes up
    pipeline.worker()
    pipeline.wait_caught_up()
    writer.resume()
    psutil.wait_procs([writer], timeout=30)
    # THEN they are there once
    pipeline.source.execute("INSERT INTO log VALUES (101)")
    pipeline.wait_caught_up()
    pipeline.assert_identical()
