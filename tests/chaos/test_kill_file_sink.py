"""kill -9 of the file sink at random moments: every change is in the files once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import resource
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from psycopg import sql
from tests.fix_sinks import committed, source_rows, wait_end, wait_for
from tests.processes import descendants

from pgflo.sinks.file import manifest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fix_sinks import ToFile
    from tests.fix_stream import Stream

LONG = bool(os.environ.get("PGFLO_LONG"))
ROUNDS = 100 if LONG else 3
SEED = int(os.environ.get("PGFLO_SEED") or 1)
ROWS = 300
LONGEST_S = 0.3
"""All of a round's changes are written by then."""


def kill_one_of(sink: ToFile, chance: random.Random) -> None:
    """Start a worker; kill it or the process that writes, while it starts or while it writes."""
    before = sink.log.read_text().count("applying changes") if sink.log.exists() else 0
    process = sink.start()
    if chance.random() < 0.7:
        wait_for(lambda: sink.log.read_text().count("applying changes") > before, "changes")
    time.sleep(chance.uniform(0, LONGEST_S))
    victims = [psutil.Process(process.pid)]
    victims += descendants(" writer ", process.pid)
    victim = chance.choice(victims)
    victim.kill()
    if victim.pid != process.pid:
        time.sleep(chance.uniform(0, LONGEST_S))
        process.kill()
    process.wait()


@pytest.mark.timeout(1200)
async def test_every_change_is_there_once_and_in_order_whenever_it_is_killed(
    to_file: ToFile, stream: Stream
) -> None:
    chance = random.Random(SEED)
    source = stream.changes.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
    compress = chance.choice(["none", "gzip", "zstd"])
    to_file.flags += ["--file-max-size", "100kB", "--file-compress", compress]
    for number in range(ROUNDS):
        first = number * ROWS
        for some in range(first, first + ROWS, 50):
            source.execute(
                sql.SQL("INSERT INTO t SELECT n, n FROM generate_series({}, {}) n").format(
                    sql.Literal(some), sql.Literal(some + 49)
                )
            )
        await stream.publish(stream.changes.envelopes(target_body_bytes=700))
        await asyncio.to_thread(kill_one_of, to_file, chance)
    assert await asyncio.to_thread(to_file.run) == 0, to_file.tail()
    assert_whole(to_file.files)
    found = [int(event["new"]["id"]) for event in to_file.events()]
    assert found == list(range(ROUNDS * ROWS)), f"PGFLO_SEED={SEED}"


def assert_whole(directory: Path) -> None:
    """See that every file that the manifest calls complete is as it says."""
    (path,) = directory.glob("*.manifest.jsonl")
    entries = filter(None, map(manifest.decode, path.read_bytes().splitlines(keepends=True)))
    for entry in entries:
        if entry.complete and entry.file is not None:
            content = (directory / entry.file).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            assert (len(content), digest) == (entry.bytes, entry.sha256)


async def test_a_full_disk_is_told_and_when_there_is_room_it_goes_on(
    to_file: ToFile, stream: Stream
) -> None:
    # The limit of a process stands in for the disk: the kernel refuses in the middle of a write.
    source = stream.changes.source
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 500) n",
    )
    process = to_file.start()
    await asyncio.to_thread(
        wait_for, lambda: "applying changes" in to_file.tail(), "the worker's start"
    )

    def limit(size_bytes: int) -> None:
        for one in (worker, *descendants(of=worker)):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(
                    one.pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY)
                )

    worker = psutil.Process(process.pid)
    limit(100_000)
    await stream.publish(stream.changes.envelopes())
    await asyncio.to_thread(
        wait_for, lambda: "Make room" in to_file.log.read_text(), "a word about it"
    )
    assert process.poll() is None
    assert committed(to_file.files) == []
    limit(resource.RLIM_INFINITY)
    await asyncio.to_thread(wait_for, lambda: len(to_file.events()) == 500, "all changes")
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(wait_end, process) == 0
    assert to_file.rows("t") == source_rows(source, "t")
