"""kill -9 of any process at random moments under load: both sides end equal, nothing twice.

`journal` has no unique index, so a change that is applied twice cannot hide. The moment of each
kill is drawn in committed transactions of the load, from the seed that is printed.
"""

from __future__ import annotations

import contextlib
import os
import random
from functools import partial
from typing import TYPE_CHECKING, Literal

import psutil
import pytest
from tests.fix_pipeline import eventually

if TYPE_CHECKING:
    from tests.fix_load import Load
    from tests.fix_nats import NatsFactory
    from tests.fix_pipeline import Command, Pipeline

# A factory of servers comes first among a test's arguments: what it made is stopped last, when the
# commands that use it have ended.

ROUNDS = 10 if os.environ.get("PGFLO_LONG") else 2
"""Kills per test: ten in the long run, two in every run."""

pytestmark = pytest.mark.timeout(600)


def kill_child(command: Command, title: str) -> None:
    """Kill -9 the first child process with `title` and wait until it is gone."""
    victim = eventually(lambda: command.children(title), f"a process titled {title!r}")[0]
    victim.kill()
    psutil.wait_procs([victim], timeout=10)


def finish(pipeline: Pipeline, load: Load) -> None:
    """Stop writing, let everything arrive, compare."""
    load.stop()
    pipeline.wait_caught_up(limit_s=120)
    pipeline.assert_identical()


@pytest.fixture
def chance(load: Load) -> random.Random:
    """Seeded source of the moments."""
    return random.Random(load.seed)


def streaming(pipeline: Pipeline, load: Load) -> tuple[Command, Command]:
    """Copy a small data set and arrive at streaming, with writers running all the time."""
    load.create(rows=2000)
    load.start()
    replicator, worker = pipeline.replicate(), pipeline.worker()
    pipeline.wait_caught_up(limit_s=120)
    return replicator, worker


def test_replicator_killed_while_streaming(
    pipeline: Pipeline, load: Load, chance: random.Random
) -> None:
    replicator, _ = streaming(pipeline, load)
    for _ in range(ROUNDS):
        load.wait_committed(chance.randrange(1, 150))
        replicator.kill()
        replicator = pipeline.replicate()
    finish(pipeline, load)


def test_worker_killed_while_streaming(
    pipeline: Pipeline, load: Load, chance: random.Random
) -> None:
    _, worker = streaming(pipeline, load)
    for _ in range(ROUNDS):
        load.wait_committed(chance.randrange(1, 150))
        worker.kill()
        worker = pipeline.worker()
    finish(pipeline, load)


def test_writer_killed_while_streaming(
    pipeline: Pipeline, load: Load, chance: random.Random
) -> None:
    _, worker = streaming(pipeline, load)
    for _ in range(ROUNDS):
        load.wait_committed(chance.randrange(1, 150))
        kill_child(worker, "writer")
    finish(pipeline, load)


def test_broker_killed_while_streaming(
    nats_factory: NatsFactory, pipeline: Pipeline, load: Load, chance: random.Random
) -> None:
    broker = nats_factory()
    pipeline.nats_url = broker.url
    streaming(pipeline, load)
    for _ in range(ROUNDS):
        load.wait_committed(chance.randrange(1, 150))
        broker.kill()
        load.wait_committed(chance.randrange(1, 150))
        broker.start()
    finish(pipeline, load)


def test_copy_process_killed_during_the_copy(
    pipeline: Pipeline, load: Load, chance: random.Random
) -> None:
    # GIVEN a copy that takes a while: hundreds of ranges of a page for each kill, one process
    load.create(rows=20_000 * ROUNDS)
    load.start()
    replicator = pipeline.replicate("--range-size", "8kB", "--max-copy-workers", "1")
    pipeline.worker()

    def copying_or_done() -> list[psutil.Process] | Literal["done"]:
        if "copy published" in replicator.log.read_text(errors="replace"):
            return "done"
        return replicator.children(" copy ")

    # WHEN its process is killed again and again
    kills = 0
    while kills < ROUNDS:
        found = eventually(copying_or_done, "a copy process, or the end of the copy")
        if found == "done":
            break
        found[0].kill()
        psutil.wait_procs(found[:1], timeout=10)
        kills += 1
        load.wait_committed(chance.randrange(1, 5))
    # THEN each range is there once all the same
    assert kills, "the copy was over before a process could be killed"
    finish(pipeline, load)


def test_replicator_killed_during_the_copy(
    pipeline: Pipeline, load: Load, chance: random.Random
) -> None:
    load.create(rows=150_000)
    load.start()
    pipeline.worker()
    replicator = pipeline.replicate("--range-size", "256kB", "--max-copy-workers", "1")
    for _ in range(ROUNDS):
        load.wait_committed(chance.randrange(1, 100))
        replicator.kill()
        replicator = pipeline.replicate("--range-size", "256kB", "--max-copy-workers", "1")
    finish(pipeline, load)


def test_broker_killed_during_the_copy(
    nats_factory: NatsFactory, pipeline: Pipeline, load: Load, chance: random.Random
) -> None:
    broker = nats_factory()
    pipeline.nats_url = broker.url
    load.create(rows=150_000)
    load.start()
    replicator = pipeline.replicate("--range-size", "128kB", "--max-copy-workers", "2")
    worker = pipeline.worker()
    # A first start without a broker is an error, not an outage.
    eventually(lambda: '"copying"' in replicator.tail(), "a copy")
    eventually(lambda: "beginning at the group" in worker.tail(), "a worker")
    for _ in range(ROUNDS):
        load.wait_committed(chance.randrange(1, 60))
        broker.kill()
        load.wait_committed(chance.randrange(1, 60))
        broker.start()
    finish(pipeline, load)
    assert replicator.log.read_text(errors="replace").count('"group created"') == 1


def test_snapshot_lost_during_the_copy(
    pipeline: Pipeline, load: Load, chance: random.Random
) -> None:
    # GIVEN a copy that loses its snapshot again and again, by the death of its holder alone or
    # together with the replicator and one of its copy processes
    load.create(rows=150_000)
    load.start()
    worker = pipeline.worker()
    flags = ("--range-size", "128kB", "--max-copy-workers", "2", "--snapshot-linger", "1m")
    replicator = pipeline.replicate(*flags)
    kills = 0
    for number in range(ROUNDS):
        look = partial(holder_or_done, pipeline, replicator)
        found = eventually(look, "a holder, or the end of the copy")
        if not isinstance(found, psutil.Process):
            break
        load.wait_committed(chance.randrange(1, 60))
        if number % 2:
            for child in replicator.children(" copy ")[:1]:
                child.kill()
            replicator.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            found.kill()
        kills += 1
        if number % 2:
            replicator = pipeline.replicate(*flags)
        load.wait_committed(chance.randrange(1, 60))
    assert kills, "the copy was over before its snapshot could be lost"
    # THEN both sides are equal in the end, without another incarnation
    finish(pipeline, load)
    log = replicator.log.read_text(errors="replace")
    assert log.count('"group created"') == 1
    assert "copying tables under a new snapshot" in log
    assert worker.exit_code() is None


@pytest.mark.parametrize("shards", ["1", "3"])
def test_killed_while_tables_join(
    pipeline: Pipeline, load: Load, chance: random.Random, shards: str
) -> None:
    # GIVEN a group of two tables that streams, while others are written as well
    load.create(rows=60_000)
    load.start()
    few = ("--exclude-tables", 'journal,"Odd ""Name"', "--range-size", "128kB")
    replicator, worker = pipeline.replicate(*few), pipeline.worker("--shards", shards)
    pipeline.wait_caught_up(limit_s=120)
    assert replicator.stop() == 0
    # WHEN the others join, and one process or another is killed meanwhile
    for number in range(ROUNDS):
        replicator = pipeline.replicate("--range-size", "128kB")
        load.wait_committed(chance.randrange(1, 120))
        if number % 2:
            worker.kill()
            worker = pipeline.worker("--shards", shards)
        replicator.kill()
    pipeline.replicate("--range-size", "128kB")
    # THEN both sides are equal in the end, and no table was begun anew
    finish(pipeline, load)
    log = replicator.log.read_text(errors="replace")
    assert log.count('"group created"') == 1
    assert '"tables join the group"' in log


def holder_or_done(
    pipeline: Pipeline, replicator: Command
) -> psutil.Process | Literal["done"] | None:
    """Find the process that holds the copy's snapshot; `done` when the copy is published."""
    if "copy published" in replicator.log.read_text(errors="replace"):
        return "done"
    title = f"pgflo {pipeline.group} snapshot"
    for process in psutil.process_iter(["cmdline"]):
        if title in " ".join(process.info["cmdline"] or []):
            return process
    return None


def test_worker_killed_during_the_copy(
    pipeline: Pipeline, load: Load, chance: random.Random
) -> None:
    load.create(rows=150_000)
    load.start()
    pipeline.replicate("--range-size", "256kB")
    for _ in range(ROUNDS):
        worker = pipeline.worker()
        load.wait_committed(chance.randrange(1, 200))
        worker.kill()
    pipeline.worker()
    finish(pipeline, load)


def test_walsender_terminated_while_streaming(
    pipeline: Pipeline, load: Load, chance: random.Random
) -> None:
    streaming(pipeline, load)
    for _ in range(ROUNDS):
        load.wait_committed(chance.randrange(1, 150))
        with pipeline.source.connect() as conn:
            conn.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                " WHERE slot_name = %s",
                (f"pgflo_{pipeline.group}",),
            )
    finish(pipeline, load)
