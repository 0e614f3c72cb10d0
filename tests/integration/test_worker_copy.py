"""The worker loads the initial copy: every range once, whatever a lane brings and whoever dies."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest
from psycopg import sql
from structlog.testing import capture_logs
from tests.fix_changes import table_rows
from tests.processes import descendants

from pgflo import _core, errors
from pgflo.broker.record import Record
from pgflo.broker.records import ATTEMPTS_PER_RUN, TableState
from pgflo.broker.topology import stream_state
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from tests.fix_stream import Stream

    from pgflo.broker.records import CopiedRecord

ROWS = 2000


def rows_of(range_no: int) -> bytes:
    """Give the COPY text of one range of table `log`."""
    return b"".join(b"%d\n" % (range_no * ROWS + number) for number in range(ROWS))


async def prepare(stream: Stream, ranges: int) -> int:
    """Make a table that is to be copied in so many ranges; give its OID."""
    stream.changes.source.execute("CREATE TABLE log (n int)")
    stream.target.execute("CREATE TABLE log (n int)")
    stream.changes.frames()
    return (await stream.describe("log", ranges=ranges))["log"]


def has_all(stream: Stream, ranges: int) -> bool:
    """Whether every row of the ranges is there exactly once."""
    found = stream.target.rows("SELECT count(*), count(DISTINCT n), max(n) FROM log")
    return found == [(ranges * ROWS, ranges * ROWS, ranges * ROWS - 1)]


async def test_ranges_are_loaded_before_changes_are_applied(stream: Stream) -> None:
    oid = await prepare(stream, ranges=3)
    stream.log(-1)
    await stream.publish(stream.changes.envelopes())
    for range_no in (2, 0):
        await stream.publish_range(oid, range_no, rows_of(range_no), ROWS)
    async with stream.worker() as task:
        await stream.until(
            lambda: stream.target.value("SELECT count(*) FROM log") == 2 * ROWS, task
        )
        # While a range is missing no change is applied, and end_lsn names no state of the source.
        assert stream.position() == (stream.changes.start_lsn, 0)
        assert stream.target.value("SELECT end_lsn::text FROM pgflo.progress") == "0/0"
        await stream.publish_range(oid, 1, rows_of(1), ROWS)
        await stream.caught_up(task)
        told = await stream.told(lambda sink: sink.phase == "streaming")
        assert told.lane_seqs == {0: 3 * len(stream.pack(oid, 0, rows_of(0), ROWS))}
    assert stream.target.value("SELECT count(*) FROM log WHERE n = -1") == 1
    stream.target.execute("DELETE FROM log WHERE n = -1")
    assert has_all(stream, 3)
    copied = await stream.record.copied("postgres")
    assert (copied[oid].ranges, copied[oid].rows) == ([0, 1, 2], 3 * ROWS)


async def test_broken_attempts_and_repeats_do_not_count(stream: Stream) -> None:
    oid = await prepare(stream, ranges=2)
    # An attempt that breaks off, one with a part missing, one of another snapshot, then a whole one
    # whose parts come twice; and the range once more when it is known already.
    cut = stream.pack(oid, 0, rows_of(0), ROWS)
    subject = stream.names.copy_subject(0)
    for data in cut[:2]:
        await stream.broker.js.publish(subject, data)
    await stream.publish_range(oid, 0, rows_of(0), ROWS, attempt=2, skip=1)
    await stream.publish_range(
        oid, 0, rows_of(5), ROWS, attempt=1, snapshot_lsn=stream.changes.start_lsn - 8
    )
    for data in stream.pack(oid, 0, rows_of(0), ROWS, attempt=3):
        await stream.broker.js.publish(subject, data)
        await stream.broker.js.publish(subject, data)
    await stream.publish_range(oid, 0, rows_of(0), ROWS, attempt=4)
    await stream.publish_range(oid, 1, rows_of(1), ROWS)
    await stream.run_to_end(once=True)
    assert has_all(stream, 2)
    assert stream.target.rows("SELECT range_no, attempt FROM pgflo.copied_ranges ORDER BY 1") == [
        (0, 3),
        (1, 1),
    ]


async def test_parts_of_a_replicator_that_is_gone_break_no_attempt_of_its_successor(
    stream: Stream,
) -> None:
    # GIVEN a whole range and a broken one of the first run, then two ranges of the second one, with
    # what the first one still had under way between their parts
    oid = await prepare(stream, ranges=3)
    first, second = ATTEMPTS_PER_RUN + 1, 2 * ATTEMPTS_PER_RUN + 1
    late = stream.pack(oid, 1, rows_of(1), ROWS, attempt=first)
    await stream.publish_range(oid, 0, rows_of(0), ROWS, attempt=first)
    subject = stream.names.copy_subject(0)
    for range_no in (1, 2):
        parts = stream.pack(oid, range_no, rows_of(range_no), ROWS, attempt=second)
        assert len(parts) >= 2
        for data in (parts[0], *late[:-1], *parts[1:]):
            await stream.broker.js.publish(subject, data)
    await stream.run_to_end(once=True)
    assert has_all(stream, 3)
    found = stream.target.rows("SELECT range_no, attempt FROM pgflo.copied_ranges ORDER BY 1")
    assert found == [(0, first), (1, second), (2, second)]


async def test_a_range_that_lost_rows_stops_the_worker(stream: Stream) -> None:
    oid = await prepare(stream, ranges=1)
    envelopes = stream.pack(oid, 0, rows_of(0), ROWS + 1)
    for data in envelopes:
        await stream.broker.js.publish(stream.names.copy_subject(0), data)
    with pytest.raises(PgfloError, match=f"{ROWS + 1} rows were read, {ROWS} arrived") as refused:
        await stream.run_to_end(once=True)
    assert refused.value.kind is errors.SINK_ROW_COUNT
    assert stream.target.value("SELECT count(*) FROM log") == 0


async def test_a_row_that_the_destination_refuses_stops_the_copy(stream: Stream) -> None:
    oid = await prepare(stream, ranges=1)
    stream.target.execute("ALTER TABLE log ADD CONSTRAINT small CHECK (n < 100)")
    await stream.publish_range(oid, 0, rows_of(0), ROWS)
    with pytest.raises(PgfloError, match="constraint small") as refused:
        await stream.run_to_end(once=True)
    assert refused.value.kind is errors.SINK_REFUSED
    assert "range 0 of public.log" in refused.value.detail


async def test_loaded_tables_are_analysed_once_as_wholes(stream: Stream) -> None:
    # GIVEN a table that is copied, and is a partition here
    oid = await prepare(stream, ranges=1)
    stream.target.execute(
        "CREATE TABLE root (n int) PARTITION BY RANGE (n)",
        "ALTER TABLE root ATTACH PARTITION log DEFAULT",
    )
    await stream.publish_range(oid, 0, rows_of(0), ROWS)
    # WHEN the worker runs to its end, and once more
    with capture_logs() as logs:
        await stream.run_to_end(once=True)
        await stream.run_to_end(once=True)
    # THEN partition and root have statistics, gathered once
    analysed = [log["tables"] for log in logs if log["event"] == "tables analysed"]
    assert analysed == [1]
    assert stream.target.rows(
        "SELECT tablename, inherited, n_distinct FROM pg_stats WHERE attname = 'n' ORDER BY 1, 2"
    ) == [("log", False, -1), ("root", True, -1)]


async def test_an_empty_range_counts(stream: Stream) -> None:
    oid = await prepare(stream, ranges=1)
    await stream.publish_range(oid, 0, b"", 0)
    await stream.run_to_end(once=True)
    assert stream.target.value("SELECT count(*) FROM log") == 0
    assert stream.target.value("SELECT row_count FROM pgflo.copied_ranges") == 0


async def test_more_lanes_than_copy_writers_are_all_read(stream: Stream) -> None:
    oid = await prepare(stream, ranges=6)
    await stream.announce(lanes=3)
    for range_no in range(6):
        for data in stream.pack(oid, range_no, rows_of(range_no), ROWS):
            await stream.broker.js.publish(stream.names.copy_subject(range_no % 3), data)
    await stream.run_to_end(once=True, copy_writers=1)
    assert has_all(stream, 6)


async def test_copy_writers_that_are_killed_leave_nothing_half_done(stream: Stream) -> None:
    oid = await prepare(stream, ranges=8)
    async with stream.worker(copy_writers=2) as task:
        for range_no in range(8):
            parts = stream.pack(oid, range_no, rows_of(range_no), ROWS)
            for number, data in enumerate(parts):
                await stream.broker.js.publish(stream.names.copy_subject(0), data)
                if range_no % 2 and number == 1:
                    for child in descendants("g copy-writer"):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            child.kill()
        await stream.until(lambda: has_all(stream, 8), task)


async def test_a_copy_writer_that_is_killed_costs_no_other_one_its_range(stream: Stream) -> None:
    # GIVEN two copy writers in the middle of a range each
    oid = await prepare(stream, ranges=2)
    await stream.announce(lanes=2)
    halves = [stream.pack(oid, number, rows_of(number), ROWS) for number in (0, 1)]
    loading = "SELECT pid FROM pg_stat_progress_copy WHERE relid = 'log'::regclass ORDER BY pid"
    async with stream.worker(copy_writers=2) as task:
        for lane, (first, *_) in enumerate(halves):
            await stream.broker.js.publish(stream.names.copy_subject(lane), first)
        await stream.until(lambda: len(stream.target.rows(loading)) == 2, task)
        before = set(stream.target.rows(loading))
        # WHEN one of them is killed
        descendants("g copy-writer 0")[0].kill()
        await stream.until(lambda: len(set(stream.target.rows(loading)) - before) == 1, task)
        # THEN another one reads its range again, and the session of the other is still the same
        assert len(set(stream.target.rows(loading)) & before) == 1
        for lane, (_, *rest) in enumerate(halves):
            for data in rest:
                await stream.broker.js.publish(stream.names.copy_subject(lane), data)
        await stream.until(lambda: has_all(stream, 2), task)


async def test_a_range_committed_without_an_answer_is_not_loaded_again(stream: Stream) -> None:
    # GIVEN a ledger that knows a range which the group's record knows nothing of
    oid = await prepare(stream, ranges=2)
    await stream.publish_range(oid, 0, rows_of(0), ROWS)
    async with stream.worker() as task:
        await stream.until(lambda: stream.target.value("SELECT count(*) FROM log") == ROWS, task)
    await stream.record.drop_sink("postgres")
    # WHEN a worker begins with the lane from its first envelope
    await stream.publish_range(oid, 1, rows_of(1), ROWS)
    await stream.run_to_end(once=True)
    # THEN the record is put right from the ledger
    assert has_all(stream, 2)
    assert (await stream.record.copied("postgres"))[oid].ranges == [0, 1]


async def test_a_copy_stream_without_its_beginning_refuses_a_new_sink(stream: Stream) -> None:
    oid = await prepare(stream, ranges=1)
    await stream.publish_range(oid, 0, rows_of(0), ROWS)
    await stream.broker.ask(f"STREAM.PURGE.{stream.names.copy_stream}", {"seq": 2})
    with pytest.raises(PgfloError) as refused:
        await stream.run_to_end(once=True)
    assert refused.value.kind is errors.SINK_LATE


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_table_copied_anew_has_its_new_rows_and_the_changes_behind_them(
    stream: Stream, shards: int
) -> None:
    # GIVEN one table whole and half of another, at the first snapshot
    source, record = stream.changes.source, stream.record
    for database in (source, stream.target):
        database.execute("CREATE TABLE log (n int)", "CREATE TABLE kept (n int)")
    stream.changes.frames()
    oids = await stream.describe("log", "kept", ranges=2)
    rows = rows_of(0)
    async with stream.worker(shards=shards) as task:
        await stream.publish_range(oids["log"], 0, rows, ROWS)
        for range_no in (0, 1):
            await stream.publish_range(oids["kept"], range_no, rows_of(range_no), ROWS)
        await stream.until(
            lambda: (
                stream.target.rows("SELECT (SELECT count(*) FROM log), count(*) FROM kept")
                == [(ROWS, 2 * ROWS)]
            ),
            task,
        )
        # WHEN that one is copied anew under a snapshot that has some of the stream's changes
        both = (
            "INSERT INTO log SELECT {0} FROM generate_series(1, 400)",
            "INSERT INTO kept SELECT {0} FROM generate_series(1, 400)",
        )
        for number in (-1, -2):
            source.execute("BEGIN", *(sql.SQL(s).format(number) for s in both), "COMMIT")
        snapshot_lsn = _core.lsn_parse(source.value("SELECT pg_current_wal_lsn()::text"))
        source.execute("BEGIN", *(sql.SQL(s).format(-3) for s in both), "COMMIT")
        await stream.publish(stream.changes.envelopes(target_body_bytes=2000, max_body_bytes=5000))
        table = (await record.tables())[oids["log"]]
        await record.put_table(replace(table, snapshot_lsn=snapshot_lsn, ranges=1))
        # (a late range of the first snapshot changes nothing, and need not be kept)
        await stream.publish_range(oids["log"], 1, rows_of(1), ROWS)
        late_seq = (await stream_state(stream.broker, stream.names.copy_stream)).last_seq
        await stream.told(lambda sink: sink.lane_seqs.get(0) == late_seq)
        rows = b"-1\n-2\n" * 400
        await stream.publish_range(oids["log"], 0, rows, 800, snapshot_lsn=snapshot_lsn)
        await stream.caught_up(task)
    # THEN it has that snapshot's rows and later changes, and the other table lost nothing
    counted = "SELECT n, count(*) FROM {} WHERE n < 0 GROUP BY n ORDER BY n"
    counts = [
        stream.target.rows(sql.SQL(counted).format(sql.Identifier(name)))
        for name in ("log", "kept")
    ]
    assert counts == [[(-3, 400), (-2, 400), (-1, 400)]] * 2
    assert stream.target.value("SELECT count(*) FROM log WHERE n >= 0") == 0
    assert stream.target.value("SELECT count(DISTINCT n) FROM kept WHERE n >= 0") == 2 * ROWS
    copied = (await record.copied("postgres"))[oids["log"]]
    assert (copied.ranges, copied.rows, copied.snapshot_lsn) == ([0], 800, snapshot_lsn)


async def test_a_table_that_is_gone_at_the_source_keeps_its_rows_when_others_are_copied_anew(
    stream: Stream,
) -> None:
    # GIVEN two tables of which the sink has half
    source, record = stream.changes.source, stream.record
    for database in (source, stream.target):
        database.execute("CREATE TABLE log (n int)", "CREATE TABLE gone (n int)")
    stream.changes.frames()
    oids = await stream.describe("log", "gone", ranges=2)
    counts = "SELECT (SELECT count(*) FROM log), count(*) FROM gone"
    async with stream.worker() as task:
        for oid in oids.values():
            await stream.publish_range(oid, 0, rows_of(0), ROWS)
        await stream.until(lambda: stream.target.rows(counts) == [(ROWS, ROWS)], task)
        # WHEN their snapshot is lost, and one of them is no more when there is another
        source.execute("DROP TABLE gone", "INSERT INTO log SELECT -1")
        snapshot_lsn = _core.lsn_parse(source.value("SELECT pg_current_wal_lsn()::text"))
        tables = await record.tables()
        log, gone = (
            replace(tables[oids[name]], snapshot_lsn=snapshot_lsn) for name in ("log", "gone")
        )
        await record.put_table(replace(gone, columns=[], ranges=0, state=TableState.READY))
        await record.put_table(replace(log, ranges=1))
        await stream.publish_range(oids["log"], 0, b"-1\n", 1, snapshot_lsn=snapshot_lsn)
        # THEN what the sink has of it stays
        await stream.until(lambda: stream.target.rows(counts) == [(1, ROWS)], task)
        await stream.publish(stream.changes.envelopes())
        await stream.caught_up(task)
    assert stream.target.rows(counts) == [(1, ROWS)]


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_table_that_joins_is_copied_before_its_first_change_is_applied(
    stream: Stream, shards: int
) -> None:
    # GIVEN a sink that streams one table
    source, record = stream.changes.source, stream.record
    for database in (source, stream.target):
        database.execute(
            "CREATE TABLE log (n int)",
            "CREATE TABLE late (id int PRIMARY KEY, v text)",
            "ALTER TABLE log REPLICA IDENTITY FULL",
        )
    stream.changes.frames()
    oids = await stream.describe("log", ranges=1)
    await stream.publish_range(oids["log"], 0, rows_of(0), ROWS)
    async with stream.worker(shards=shards) as task:
        stream.log(-1)
        await stream.publish(stream.changes.envelopes())
        await stream.caught_up(task)
        # WHEN changes of another table come before the sink has heard of it
        source.execute("INSERT INTO late SELECT g, 'copied' FROM generate_series(1, 500) g")
        snapshot_lsn = _core.lsn_parse(source.value("SELECT pg_current_wal_lsn()::text"))
        source.execute("UPDATE late SET v = 'changed' WHERE id > 250")
        stream.log(-2)
        await stream.publish(stream.changes.envelopes(layout=1))
        await stream.all_delivered()
        stream.log(-3)
        late = await stream.describe("late", ranges=1, snapshot_lsn=snapshot_lsn)
        await stream.announce(tables=sorted({**oids, **late}.values()), layout=1)
        await stream.publish_range(
            late["late"],
            0,
            b"".join(b"%d\tcopied\n" % number for number in range(1, 501)),
            500,
            snapshot_lsn=snapshot_lsn,
        )
        await stream.publish(stream.changes.envelopes(layout=1))
        # THEN it is copied first, and both tables lose nothing
        await stream.caught_up(task)
    assert table_rows(stream.target, "late") == table_rows(source, "late")
    counts = "SELECT n, count(*) FROM log WHERE n < 0 GROUP BY n ORDER BY n"
    assert stream.target.rows(counts) == [(-3, 1), (-2, 1), (-1, 1)]
    assert stream.target.value("SELECT count(*) FROM log WHERE n >= 0") == ROWS
    assert await record.copied("postgres") != {}


async def test_copied_rows_and_changes_make_both_sides_equal(stream: Stream) -> None:
    source = stream.changes.source
    table = "CREATE TABLE t (id int PRIMARY KEY, v text, d date, i interval, b bytea, f float8)"
    source.execute(table)
    stream.target.execute(table)
    stream.changes.frames()
    source.execute(
        "INSERT INTO t SELECT g, E'tab\\t\\\\ \\n' || g, date '2000-01-01' + g,"
        " make_interval(0, g), decode(md5(g::text), 'hex'), random() FROM generate_series(1, 500) g"
    )
    stream.changes.frames()
    oid = (await stream.describe("t", ranges=1))["t"]
    with source.connect().cursor().copy("COPY t TO STDOUT") as copy:
        rows = b"".join(bytes(row) for row in copy)
    await stream.publish_range(oid, 0, rows, 500)
    source.execute("UPDATE t SET v = v || 'x', i = i + '1 day' WHERE id % 2 = 0")
    await stream.publish(stream.changes.envelopes())
    await stream.run_to_end(once=True)
    assert table_rows(stream.target, "t") == table_rows(source, "t")


async def test_lanes_are_not_told_past_ranges_that_the_record_did_not_take(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a sink that has no ledger but the record, and a record that refuses a table once
    stream.changes.source.execute("CREATE TABLE a (n int)", "CREATE TABLE b (n int)")
    stream.changes.frames()
    oids = await stream.describe("a", "b", ranges=1)
    put, refusals = Record.put_copied, iter([True])

    async def put_later(record: Record, copied: CopiedRecord) -> None:
        if len(copied.ranges) > 0 and next(refusals, False):
            raise PgfloError(errors.BROKER_UNREACHABLE, "away for a moment")
        await put(record, copied)

    monkeypatch.setattr(Record, "put_copied", put_later)
    for oid in oids.values():
        await stream.publish_range(oid, 0, b"1\n2\n", 2)
    # WHEN the worker begins again after that
    async with stream.worker(kind="stdout"):
        await stream.told(lambda sink: sink.phase == "streaming")
    # THEN it has every range, and knew so
    copied = await stream.record.copied("postgres")
    told = {oid: found.ranges for oid, found in copied.items()}
    assert told == {oid: [0] for oid in oids.values()}
    assert next(refusals, None) is None
