"""Sources that bear little silence: one connection serves whatever comes, and ends when it must."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.fix_postgres import fresh_database
from tests.fix_replicator import Replicator, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fix_postgres import PostgresFactory

pytestmark = pytest.mark.timeout(300)

HOLD_S = 15.0
"""How long a connection is watched: many times the silence that the source allows."""

BUSY_MOMENTS = 4
"""Statuses that may be late for want of a processor."""

HEARD = """
SELECT s.active_pid, extract(epoch FROM r.reply_time)::float8,
       extract(epoch FROM clock_timestamp() - r.reply_time)::float8, a.wait_event
FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid
JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = %s
"""


class Impatient(Replicator):
    """A replicator whose source ends a connection that says nothing for `wal_sender_timeout`."""

    def heard(self) -> tuple[int, float, float, str]:
        """Walsender's pid, time of the last status, its age, what the walsender waits for."""
        rows = self.source.rows(HEARD, [self.names_at_source.slot])
        return rows[0] if rows and rows[0][1] is not None else (0, 0.0, 0.0, "")

    async def served_by(self) -> int:
        """Return when the source has heard a status; give the pid of the walsender that did."""
        await until(lambda: self.heard()[0], "streaming")
        return self.heard()[0]

    async def tells(self, pid: int, since: float) -> None:
        """Return when `pid` has heard a status that was sent after `since`."""

        def told() -> bool:
            now_pid, at, _, _ = self.heard()
            assert now_pid == pid, "another connection took over"
            return at > since

        await until(told, "a status")

    async def holds(self, pid: int) -> float:
        """Watch for `HOLD_S` that `pid` serves; give the longest time between two statuses.

        Not that of the busiest moments of this machine: the longest few are left out.
        """
        first_at = self.heard()[1]
        told_at = [first_at]

        def held() -> bool:
            now_pid, at, _, _ = self.heard()
            assert now_pid == pid, "another connection took over"
            if at != told_at[-1]:
                told_at.append(at)
            return at - first_at >= HOLD_S

        await until(held, "statuses over the whole time")
        return sorted(b - a for a, b in itertools.pairwise(told_at))[-1 - BUSY_MOMENTS]


@asynccontextmanager
async def impatient(
    start_server: PostgresFactory,
    wal_sender_timeout: str,
    nats_url: str,
    state_dir: Path,
    group: str = "impatient",
) -> AsyncIterator[Impatient]:
    """Give a replicator with a source of its own that has a table `t`."""
    server = start_server(wal_sender_timeout=wal_sender_timeout)
    with fresh_database(server, "impatient") as source:
        source.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        replicator = Impatient(source, nats_url, state_dir, group)
        try:
            yield replicator
        finally:
            await replicator.end()
        if not server.running:
            server.start()


async def test_one_connection_serves_a_large_transaction_a_silence_a_full_stream_and_a_late_answer(
    postgres_server: PostgresFactory, nats_url: str, tmp_path: Path
) -> None:
    # The watches take their time, so all of them are held at once, when the work is done.
    async with (
        impatient(postgres_server, "1s", nats_url, tmp_path, "quiet") as quiet,
        impatient(postgres_server, "1s", nats_url, tmp_path, "full") as full,
        impatient(postgres_server, "1500ms", nats_url, tmp_path, "late") as late,
    ):
        await serve_a_large_transaction(quiet)
        await serve_a_large_transaction(full)
        await answer_late(late)
        await fill_the_stream(full)  # last, for it lets the source go after a while
        async with asyncio.TaskGroup() as watches:
            # A source need not ask for a status in a silence, and hears them when nothing is read.
            watches.create_task(holds_below(0.45, quiet))
            watches.create_task(holds_below(0.45, full))
            watches.create_task(holds_below(0.7, late))
        assert full.heard()[3] == "WalSenderWriteData"


async def serve_a_large_transaction(replicator: Impatient) -> None:
    """Publish one without a sink, through one connection."""
    replicator.spawn(stream_max_bytes=48 * 1024 * 1024)
    pid = await replicator.served_by()
    replicator.source.execute("INSERT INTO t SELECT generate_series(1, 300000)")
    await replicator.until_published(replicator.wal_lsn())
    assert replicator.heard()[0] == pid


async def fill_the_stream(replicator: Impatient) -> None:
    """Change more than the change stream takes, until nothing can be read; one connection."""
    pid = replicator.heard()[0]
    replicator.source.execute(
        "INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(300001, 400000) i"
    )
    await until(lambda: replicator.heard()[3] == "WalSenderWriteData", "back-pressure")
    assert replicator.heard()[0] == pid


async def answer_late(replicator: Impatient) -> None:
    """Give a replicator no time until its source, after half of its patience, has asked; again."""
    process = replicator.spawn()
    pid = await replicator.served_by()
    for _ in range(6):
        process.send_signal(signal.SIGSTOP)
        await until(lambda: replicator.heard()[2] > 0.8, "silence")
        resumed_at = time.time()
        process.send_signal(signal.SIGCONT)
        # It answers and stays.
        await replicator.tells(pid, resumed_at)


async def holds_below(longest_s: float, replicator: Impatient) -> None:
    """Watch that the connection stays, with no longer than that between two statuses."""
    assert await replicator.holds(replicator.heard()[0]) < longest_s, replicator.group


@pytest.mark.parametrize("wal_sender_timeout", ["1s", "0"])
async def test_a_fast_shutdown_takes_seconds_however_much_silence_the_source_allows(
    postgres_server: PostgresFactory, nats_url: str, tmp_path: Path, wal_sender_timeout: str
) -> None:
    # GIVEN a group that can confirm nothing: no sink is registered
    async with impatient(postgres_server, wal_sender_timeout, nats_url, tmp_path) as replicator:
        source = replicator.source
        replicator.spawn(confirm_after="sink")
        await replicator.served_by()
        source.execute("INSERT INTO t SELECT generate_series(1, 100000)")
        await replicator.until_published(replicator.wal_lsn())
        # WHEN the source is stopped THEN it stops at once
        started_at = time.monotonic()
        await asyncio.to_thread(source.server.stop, "fast", 30)
        assert time.monotonic() - started_at < 10
