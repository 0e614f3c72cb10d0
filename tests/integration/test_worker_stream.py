"""The worker applies the change stream once and in order, whatever the broker delivers."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.fix_changes import Changes, table_rows
from tests.processes import descendants

from pgflo import _core, errors
from pgflo.broker.records import Phase
from pgflo.broker.topology import delete_group
from pgflo.errors import PgfloError
from pgflo.worker import dispatcher
from pgflo.worker.group_view import GroupView

if TYPE_CHECKING:
    from tests.fix_postgres import Database
    from tests.fix_proxy import ProxyFactory
    from tests.fix_stream import Stream

LOG = "CREATE TABLE log (n int)"
"""A table without any unique index: a change that is applied twice cannot hide."""


def make(stream: Stream, statements: str) -> None:
    stream.changes.source.execute(statements)
    stream.target.execute(statements)
    stream.changes.frames()


def assert_equal(stream: Stream, *tables: str) -> None:
    for table in tables:
        assert table_rows(stream.target, table) == table_rows(stream.changes.source, table)


async def test_changes_arrive_and_the_group_hears_how_far(stream: Stream) -> None:
    make(stream, LOG)
    async with stream.worker() as task:
        for number in range(5):
            stream.log(number)
            await stream.publish(stream.changes.envelopes())
        await stream.caught_up(task)
        assert_equal(stream, "log")

        wanted = stream.changes.position
        told = await stream.told(lambda sink: (sink.commit_lsn, sink.ordinal) == wanted)
        assert (told.phase, told.applied_changes) == ("streaming", 5)
        assert told.end_lsn == stream.changes.end_lsn


async def test_watermarks_move_the_position_of_an_idle_sink(stream: Stream) -> None:
    make(stream, LOG)
    changes = stream.changes
    assembler = _core.Assembler(changes.incarnation.bytes, changes.position, changes.end_lsn)
    changes.source.execute("CREATE TABLE unrelated (n int)")
    assembler.feed(changes.frames() or changes_keepalive(changes))
    lsn = assembler.received_lsn
    await stream.publish([assembler.watermark(lsn)])
    async with stream.worker() as task:
        await stream.until(lambda: stream.position() == (lsn, 0), task)


def changes_keepalive(changes: Changes) -> bytes:
    """Make a keepalive frame that tells where the source's log ends."""
    lsn = changes.source.value("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
    frame = b"k" + struct.pack(">QqB", lsn, 0, 0)
    return struct.pack(">I", len(frame)) + frame


async def test_a_gap_in_the_chain_stops_the_worker(stream: Stream) -> None:
    make(stream, LOG)
    stream.log(1)
    first = stream.changes.envelopes()
    stream.log(2)
    stream.changes.envelopes()  # lost
    stream.log(3)
    await stream.publish([*first, *stream.changes.envelopes()])
    with pytest.raises(PgfloError, match="does not join") as refused:
        await stream.run_to_end()
    assert refused.value.kind is errors.SINK_CHAIN_GAP
    assert refused.value.exit_code == errors.Exit.SINK
    assert stream.target.value("SELECT count(*) FROM log WHERE n > 1") == 0
    assert (stream.position() or (0, 0)) <= (first[-1].commit_lsn, first[-1].ordinal)


async def test_a_sink_that_comes_too_late_is_told_so(stream: Stream) -> None:
    make(stream, LOG)
    stream.log(1)
    stream.changes.envelopes()  # purged before this sink came
    stream.log(2)
    await stream.publish(stream.changes.envelopes())
    with pytest.raises(PgfloError) as refused:
        await stream.run_to_end()
    assert refused.value.kind is errors.SINK_LATE
    assert stream.target.value("SELECT count(*) FROM log") == 0


async def test_envelopes_that_overlap_or_come_again_are_applied_once(stream: Stream) -> None:
    make(stream, LOG)
    changes = stream.changes
    start = (changes.incarnation.bytes, changes.position, changes.end_lsn)
    frames = b""
    cuts = []
    for number in range(4):
        stream.log(number, 50)
        frames += changes.frames()
        # Cut anew from the start each time, with other limits: 1, then 2, 3, 4 transactions.
        assembler = _core.Assembler(*start, target_body_bytes=600 * (number + 1))
        cuts.append([*assembler.feed(frames), *assembler.flush()])
    await stream.publish(envelope for cut in cuts for envelope in cut)
    changes.position = (cuts[-1][-1].commit_lsn, cuts[-1][-1].ordinal)
    async with stream.worker() as task:
        await stream.caught_up(task)
    assert_equal(stream, "log")


async def test_parts_begun_again_by_another_publisher_are_joined_once(stream: Stream) -> None:
    make(stream, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    stream.changes.source.execute("INSERT INTO t VALUES (1, repeat('v', 20000))")
    envelopes = stream.changes.envelopes(target_body_bytes=4096, max_body_bytes=4096)
    assert len(envelopes) > 4
    await stream.publish([*envelopes[:3], *envelopes])
    async with stream.worker() as task:
        await stream.caught_up(task)
    assert_equal(stream, "t")


async def test_a_transaction_larger_than_an_epoch_is_seen_at_once(stream: Stream) -> None:
    make(stream, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    stream.changes.source.execute(
        "INSERT INTO t SELECT g, repeat('v', 100) FROM generate_series(1, 20000) g"
    )
    envelopes = stream.changes.envelopes()
    assert sum(len(envelope.data) for envelope in envelopes) > 30 * 64 * 1024
    await stream.publish(envelopes[:-1])
    async with stream.worker(epoch_bytes=64 * 1024, batch_rows=500) as task:
        # All but the last envelope is with the writer, and nothing of it is visible.
        await stream.until(lambda: writes_open(stream), task)
        assert stream.target.value("SELECT count(*) FROM t") == 0
        await stream.publish(envelopes[-1:])
        await stream.caught_up(task)
    assert_equal(stream, "t")


def writes_open(stream: Stream) -> bool:
    """Whether a transaction that has written to table `t` is open at the destination."""
    return bool(
        stream.target.value(
            "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND granted"
            " AND mode = 'RowExclusiveLock'"
        )
    )


async def test_a_transaction_whose_rest_does_not_come_lets_its_locks_go(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(stream, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    stream.changes.source.execute(
        "INSERT INTO t SELECT g, repeat('v', 100) FROM generate_series(1, 5000) g"
    )
    envelopes = stream.changes.envelopes(target_body_bytes=65536, max_body_bytes=65536)
    await stream.publish(envelopes[:-1])
    monkeypatch.setattr(dispatcher, "OPEN_LIMIT_S", 0.4)
    monkeypatch.setattr(dispatcher, "WHOLE_LOOK_S", 0.1)
    async with stream.worker(epoch_bytes=64 * 1024) as task:
        await stream.until(lambda: writes_open(stream), task)
        await stream.until(lambda: not writes_open(stream), task)
        # It does not take them again before all of it is there.
        stream.target.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT")
        await stream.publish(envelopes[-1:])
        await stream.caught_up(task)
    assert_equal(stream, "t")


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
async def test_a_writer_that_dies_is_started_again(stream: Stream, kind: signal.Signals) -> None:
    make(stream, LOG)
    async with stream.worker() as task:
        for number in range(6):
            stream.log(number, 2000)
            await stream.publish(stream.changes.envelopes(target_body_bytes=4096))
            if number % 2:
                for child in descendants("pgflo g writer"):
                    os.kill(child.pid, kind)
        await stream.caught_up(task)
    assert_equal(stream, "log")


async def test_a_lost_connection_to_the_destination_heals(
    stream: Stream, tcp_proxy: ProxyFactory, target: Database
) -> None:
    make(stream, LOG)
    proxy = tcp_proxy("127.0.0.1", port_of(target))
    stream.through(proxy.port)
    async with stream.worker() as task:
        for number in range(6):
            stream.log(number)
            await stream.publish(stream.changes.envelopes())
            if number % 2:
                proxy.cut()
        await stream.caught_up(task)
    assert_equal(stream, "log")


async def test_a_commit_whose_answer_is_lost_is_not_applied_twice(
    stream: Stream, tcp_proxy: ProxyFactory, target: Database
) -> None:
    make(stream, LOG)
    proxy = tcp_proxy("127.0.0.1", port_of(target))
    stream.through(proxy.port)
    async with stream.worker() as task:
        stream.log(-1)
        await stream.publish(stream.changes.envelopes())
        await stream.caught_up(task)
        for number in range(5):
            lost = proxy.drop_responses_matching(lambda data: b"COMMIT\0" in data)
            stream.log(number)
            await stream.publish(stream.changes.envelopes())
            await stream.until(lost.is_set, task)
            await stream.caught_up(task)
    assert_equal(stream, "log")


async def test_a_stop_finishes_what_is_under_way_and_keeps_rows_and_position_together(
    stream: Stream,
) -> None:
    make(stream, LOG)
    for number in range(40):
        stream.log(number, 500)
    await stream.publish(stream.changes.envelopes(target_body_bytes=4096))
    while True:
        async with stream.worker(batch_rows=1000) as task:
            before = stream.position()
            await stream.until(lambda last=before: stream.position() != last, task)  # type: ignore[misc]
        rows = stream.target.rows("SELECT n, count(*) FROM log GROUP BY n ORDER BY n")
        assert rows == [(number, 500) for number in range(len(rows))]
        if stream.position() == stream.changes.position:
            break
    assert len(rows) == 40


async def test_once_ends_at_what_the_stream_holds(stream: Stream) -> None:
    make(stream, LOG)
    stream.log(1)
    await stream.publish(stream.changes.envelopes())
    await stream.run_to_end(once=True)
    assert_equal(stream, "log")
    await stream.run_to_end(once=True)
    assert (await stream.record.sinks())["postgres"].phase == "done"


async def test_until_ends_at_the_lsn_and_leaves_the_rest(stream: Stream) -> None:
    make(stream, LOG)
    envelopes = []
    for number in range(4):
        stream.log(number)
        envelopes += stream.changes.envelopes()
    await stream.publish(envelopes)
    await stream.run_to_end(until=_core.lsn_format(envelopes[1].end_lsn))
    assert stream.target.rows("SELECT n FROM log ORDER BY n") == [(0,), (1,)]
    await stream.run_to_end(until="now")
    assert_equal(stream, "log")


async def test_until_ends_where_the_replicator_ended_before(stream: Stream) -> None:
    make(stream, LOG)
    stream.log(1)
    await stream.publish(stream.changes.envelopes())
    await stream.announce(phase=Phase.DONE, final_lsn=stream.changes.end_lsn)
    await stream.run_to_end(until="FFFFFFFF/0")
    assert_equal(stream, "log")


async def test_a_group_that_is_dropped_ends_its_worker(stream: Stream) -> None:
    make(stream, LOG)
    stream.log(1)
    await stream.publish(stream.changes.envelopes())

    async def drop_under_a_worker() -> None:
        async with stream.worker() as task:
            await stream.caught_up(task)
            await delete_group(stream.broker, "g")
            await task

    with pytest.raises(PgfloError) as refused:
        await drop_under_a_worker()
    assert refused.value.kind is errors.GROUP_UNKNOWN


async def test_a_view_of_a_dropped_group_ends_with_the_plain_error(stream: Stream) -> None:
    view = GroupView(stream.record)
    following = asyncio.ensure_future(view.run())
    await view.wait(lambda _: True)
    await delete_group(stream.broker, "g")
    with pytest.raises(PgfloError) as refused:
        await following
    assert refused.value.kind is errors.GROUP_UNKNOWN


async def test_a_destination_that_is_away_at_the_start_is_told_at_once(stream: Stream) -> None:
    stream.through(1)
    with pytest.raises(PgfloError) as refused:
        await stream.run_to_end()
    assert refused.value.kind is errors.SINK_UNREACHABLE
    assert refused.value.exit_code == errors.Exit.SINK


async def test_a_group_begun_anew_is_followed(stream: Stream, source: Database) -> None:
    make(stream, LOG)
    stream.log(1)
    await stream.publish(stream.changes.envelopes())
    async with stream.worker() as task:
        await stream.caught_up(task)
        source.execute("DROP PUBLICATION everything")
        source.value("SELECT 'dropped' FROM pg_drop_replication_slot(%s)", [stream.changes.slot])
        await stream.begin_anew(Changes(source))
        source.execute("INSERT INTO log VALUES (2)")
        await stream.publish(stream.changes.envelopes())
        await stream.caught_up(task)
    assert_equal(stream, "log")
    row = stream.target.rows("SELECT incarnation FROM pgflo.progress")
    assert row == [(stream.changes.incarnation,)]


async def test_a_second_worker_waits_for_the_first(stream: Stream) -> None:
    make(stream, LOG)
    stream.log(1)
    await stream.publish(stream.changes.envelopes())
    async with stream.worker() as first:
        await stream.caught_up(first)
        async with stream.worker() as second:
            stream.log(2)
            await stream.publish(stream.changes.envelopes())
            await stream.caught_up(first)
            assert not first.done()
            assert not second.done()
    assert_equal(stream, "log")


def port_of(database: Database) -> int:
    return int(conninfo_to_dict(database.dsn)["port"] or 5432)
