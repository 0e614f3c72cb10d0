"""The copy: every row of the snapshot once, and nothing that the stream brings as well."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, LiteralString

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr
from structlog.testing import capture_logs
from tests.fix_replicator import until
from tests.processes import descendants

from pgflo import errors
from pgflo.broker.records import Phase, TableState, run_of
from pgflo.broker.spans import numbers
from pgflo.config.settings import CopySettings
from pgflo.errors import PgfloError
from pgflo.source.drop import drop_group, list_group

if TYPE_CHECKING:
    from tests.fix_replicator import Replicator

    from pgflo.broker.copy_progress import CopyProgress

pytestmark = pytest.mark.timeout(300)

SMALL_RANGES = CopySettings(max_workers_per_table=2, max_workers=3, range_bytes=8192 * 16)

ONE_LANE = SMALL_RANGES.model_copy(update={"max_workers": 1})
"""The largest table is finished before the next one begins."""


async def test_a_row_is_either_copied_or_streamed_never_both(replicator: Replicator) -> None:
    # GIVEN a writer that commits rows one by one, without a break
    source = replicator.source
    source.execute(
        "CREATE TABLE t (id bigserial PRIMARY KEY, v text)",
        "INSERT INTO t (v) SELECT repeat('x', 100) FROM generate_series(1, 50000)",
    )
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(source.dsn, autocommit=True) as conn:
            while not stop.is_set():
                conn.execute("INSERT INTO t (v) VALUES ('y')")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        # WHEN the table is copied and streamed meanwhile
        running = replicator.start(mode="copy-and-stream", copying=SMALL_RANGES)

        async def streams() -> bool:
            record = await replicator.record()
            return record is not None and record.phase is Phase.STREAMING

        await until(streams, "copy published")
    finally:
        stop.set()
        writer.join()
    await replicator.until_published(replicator.wal_lsn())
    await running.stop()
    # THEN the two are disjoint and together complete
    stored = await replicator.read_back()
    copied, streamed = stored.copied_integers("public.t"), stored.inserted()
    everything = [row[0] for row in source.rows("SELECT id FROM t ORDER BY id")]
    assert sorted(copied + streamed) == everything
    assert streamed, "the writer was too slow for this test to show anything"


async def test_copy_only_copies_everything_and_leaves_nothing_at_the_source(
    replicator: Replicator,
) -> None:
    source = replicator.source
    source.execute(
        "CREATE TABLE big (id int PRIMARY KEY, v text)",
        "INSERT INTO big SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i",
        "CREATE TABLE empty (id int PRIMARY KEY)",
        "CREATE TABLE keyless (id int)",
        "INSERT INTO keyless SELECT generate_series(1, 10)",
        "CREATE TABLE calculated (id int PRIMARY KEY, "
        "twice int GENERATED ALWAYS AS (id * 2) STORED, v text)",
        "INSERT INTO calculated (id, v) VALUES (1, E'tab\\there')",
        "CREATE TABLE parent (id int)",
        "CREATE TABLE child (extra int) INHERITS (parent)",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (2, 3)",
        "CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler",
        "CREATE TABLE odd (id int, v text) USING other",
        "INSERT INTO odd SELECT i, repeat('x', 200) FROM generate_series(1, 5000) i",
    )
    seen: list[CopyProgress] = []
    await replicator.run(seen.append, mode="copy", copying=SMALL_RANGES)
    stored = await replicator.read_back()
    assert stored.copied_integers("public.big") == list(range(1, 20001))
    assert stored.copied_integers("public.empty") == []
    assert stored.copied_integers("public.keyless") == list(range(1, 11))
    assert stored.copied["public.calculated"] == [[b"1", rb"tab\there"]]
    # Rows of an inheritance child are its own; what may lack ctid ranges is read in one scan.
    assert stored.copied_integers("public.parent") == [1]
    assert stored.copied["public.child"] == [[b"2", b"3"]]
    assert stored.copied_integers("public.odd") == list(range(1, 5001))
    assert {t.name: t.ranges for t in stored.tables.values()}["odd"] == 1
    assert stored.record.phase is Phase.DONE
    assert {table.state for table in stored.tables.values()} == {TableState.PUBLISHED}
    assert replicator.objects_at_source() == []
    assert seen[-1].finished
    big = next(table for table in seen[-1].tables if table.table == "public.big")
    assert (big.rows, big.ranges_done) == (20000, big.ranges)
    assert big.ranges > 4


async def test_every_leaf_of_a_partitioned_table_is_copied_with_its_root_named(
    replicator: Replicator,
) -> None:
    source = replicator.source
    source.execute(
        "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE high PARTITION OF root FOR VALUES FROM (100) TO (200) PARTITION BY LIST (id)",
        "CREATE TABLE high_rest PARTITION OF high DEFAULT",
        "INSERT INTO root SELECT generate_series(50, 149)",
    )
    running = replicator.start(mode="copy-and-stream")
    await until(replicator.slot_lsn, "slot created")
    # A partition made later belongs to the group as well: the publication names the root.
    source.execute(
        "CREATE TABLE later PARTITION OF root FOR VALUES FROM (200) TO (300)",
        "INSERT INTO root VALUES (10), (160), (210)",
    )
    await replicator.until_streaming()
    await replicator.until_published(replicator.wal_lsn())
    await running.stop()
    stored = await replicator.read_back()
    assert stored.copied_integers("public.low") == list(range(50, 100))
    assert stored.copied_integers("public.high_rest") == list(range(100, 150))
    assert {table.root for table in stored.tables.values()} == {("public", "root")}
    assert stored.inserted() == [10, 160, 210]


async def test_partitions_made_since_are_copied_when_their_root_is_copied_anew(
    replicator: Replicator,
) -> None:
    # Where the destination has one table for all of them, their rows go with the others'.
    source = replicator.source
    source.execute(
        "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (100)",
        "INSERT INTO root SELECT generate_series(0, 9)",
    )
    await replicator.run(mode="copy-and-stream", once=True)
    source.execute(
        "CREATE TABLE later PARTITION OF root FOR VALUES FROM (100) TO (200)",
        "INSERT INTO root SELECT generate_series(100, 109)",
    )
    await replicator.run(mode="copy-and-stream", once=True)
    assert (await replicator.read_back()).inserted() == list(range(100, 110))
    await replicator.delete_stream("copy")
    await replicator.run(mode="copy-and-stream", once=True)
    stored = await replicator.read_back()
    assert stored.copied_integers("public.low") == list(range(10))
    assert stored.copied_integers("public.later") == list(range(100, 110))


@pytest.mark.parametrize(
    "rewrite",
    ["VACUUM FULL t", "ALTER TABLE t ALTER COLUMN id TYPE bigint", "TRUNCATE t"],
)
async def test_a_table_rewritten_before_it_is_locked_is_copied_under_another_snapshot(
    replicator: Replicator, rewrite: LiteralString
) -> None:
    # GIVEN sessions that take a second to begin, so that the locks come late
    source = replicator.source
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 5000) i",
    )
    slow = SecretStr(make_conninfo(source.dsn, options="-c post_auth_delay=1"))
    running = replicator.start(mode="copy-and-stream", once=True, conninfo=slow)
    await until(replicator.slot_lsn, "snapshot exported")
    first_lsn = replicator.slot_lsn()
    # WHEN the table is rewritten before it is locked
    source.execute(rewrite)
    await asyncio.wait_for(running.task, 100)
    # THEN the snapshot that would have seen half of it, or nothing, is not used
    stored = await replicator.read_back()
    assert first_lsn is not None
    assert stored.record.start_lsn > first_lsn
    left = [row[0] for row in source.rows("SELECT id FROM t ORDER BY id")]
    assert stored.copied_integers("public.t") == left


async def test_a_copy_waits_for_a_lock_and_notices_what_was_done_under_it(
    replicator: Replicator,
) -> None:
    # GIVEN a session that keeps everybody from the table
    source = replicator.source
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 5000)"
    )
    other = source.connect()
    other.execute("BEGIN")
    other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
    running = replicator.start(mode="copy")
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        " AND wait_event_type = 'Lock'"
    )
    name = [f"pgflo_{replicator.group} snapshot"]
    await until(lambda: source.value(waiting, name), "holder waits for the lock")
    # WHEN it replaces all rows and ends
    other.execute("TRUNCATE t")
    other.execute("INSERT INTO t SELECT generate_series(6000, 7000)")
    other.execute("COMMIT")
    await asyncio.wait_for(running.task, 60)
    # THEN the copy has what is there now
    stored = await replicator.read_back()
    assert stored.copied_integers("public.t") == list(range(6000, 7001))


@pytest.mark.parametrize("title", ["pgflo {} copy", "multiprocessing.forkserver"])
async def test_a_copy_process_that_is_killed_costs_its_range_another_attempt(
    replicator: Replicator, title: str
) -> None:
    source = replicator.source
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 100000) i",
    )
    killed: list[int] = []

    def kill_one(progress: CopyProgress) -> None:
        if not killed and progress.tables[0].rows:
            for process in descendants(title.format(replicator.group))[:1]:
                process.kill()
                killed.append(process.pid)

    await replicator.run(kill_one, mode="copy", copying=SMALL_RANGES)
    assert killed
    stored = await replicator.read_back()
    assert stored.copied_integers("public.t") == list(range(1, 100001))


BIG_TABLE: tuple[LiteralString, ...] = (
    "CREATE TABLE t (id int, v text)",
    "ALTER TABLE t REPLICA IDENTITY FULL",
    "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 50000) i",
)


async def test_a_lost_snapshot_has_only_unfinished_tables_copied_again(
    replicator: Replicator,
) -> None:
    # GIVEN a copy whose larger table is finished, and whose other one is not
    source = replicator.source
    source.execute(
        "CREATE TABLE done (id int PRIMARY KEY, v text)",
        "INSERT INTO done SELECT i, repeat('x', 500) FROM generate_series(1, 60000) i",
        *BIG_TABLE,
    )
    process = replicator.spawn(mode="copy-and-stream", copying=ONE_LANE)
    await replicator.until_published_ranges(3, "t")
    # WHEN replicator and holder are killed, rows change meanwhile, and another one follows
    process.kill()
    process.wait()
    before = {table.name: table for table in await replicator.tables()}
    assert before["done"].published_ranges == before["done"].ranges
    record = await replicator.record()
    assert record is not None
    assert record.snapshot is not None
    psutil.Process(record.snapshot.pid).kill()
    await until(lambda: not replicator.snapshot_sessions(), "snapshot gone")
    source.execute(
        "INSERT INTO t SELECT i, 'new' FROM generate_series(50001, 50010) i",
        "DELETE FROM t WHERE id <= 10",
        "INSERT INTO done SELECT i, 'new' FROM generate_series(60001, 60010) i",
    )
    await replicator.run(mode="copy-and-stream", once=True, copying=SMALL_RANGES)
    # THEN the incarnation goes on, the finished table stays, the other has a point of its own
    stored = await replicator.read_back()
    assert stored.record.incarnation == record.incarnation
    tables = {table.name: table for table in stored.tables.values()}
    assert tables["done"].snapshot_lsn == before["done"].snapshot_lsn == stored.record.start_lsn
    assert tables["t"].snapshot_lsn > stored.record.start_lsn
    done_oid = tables["done"].oid
    assert all(run_of(max(stored.attempts[done_oid, n])) == 1 for n in range(tables["done"].ranges))
    assert stored.copied_integers("public.done") == list(range(1, 60001))
    assert stored.copied_integers("public.t") == list(range(11, 50011))
    # and all changes are in the stream: those of `t` before its new point are for sinks to pass
    # over
    assert len(stored.inserted()) == 20


async def test_a_session_of_the_snapshot_that_ends_costs_no_incarnation(
    replicator: Replicator,
) -> None:
    source = replicator.source
    source.execute(*BIG_TABLE)
    running = replicator.start(mode="copy-and-stream", once=True, copying=SMALL_RANGES)
    await replicator.until_published_ranges(1)
    first = await replicator.record()
    source.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'pgflo_%snapshot'"
    )
    await asyncio.wait_for(running.task, 100)
    stored = await replicator.read_back()
    assert first is not None
    assert stored.record.incarnation == first.incarnation
    assert stored.copied_integers("public.t") == list(range(1, 50001))
    assert len(await replicator.streams()) == 2


async def test_a_copy_alone_whose_snapshot_is_lost_begins_again(replicator: Replicator) -> None:
    # Without a stream nothing would bring tables of two snapshots to one point.
    source = replicator.source
    source.execute(*BIG_TABLE)
    running = replicator.start(mode="copy", copying=SMALL_RANGES)
    await replicator.until_published_ranges(1)
    first = await replicator.record()
    source.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'pgflo_%snapshot'"
    )
    await asyncio.wait_for(running.task, 100)
    stored = await replicator.read_back()
    assert first is not None
    assert stored.record.incarnation != first.incarnation
    assert stored.copied_integers("public.t") == list(range(1, 50001))
    assert len(await replicator.streams()) == 2


async def test_a_killed_replicator_is_followed_by_one_that_copies_only_what_is_left(
    replicator: Replicator,
) -> None:
    # GIVEN a copy that was killed twice, with its processes
    source = replicator.source
    source.execute(*BIG_TABLE)
    known: list[tuple[str, dict[int, int]]] = []
    for run in (1, 2):
        process = replicator.spawn(mode="copy-and-stream", copying=SMALL_RANGES)
        former = len(known[-1][1]) if known else 0
        await replicator.until_published_ranges(former + 20)
        process.kill()
        process.wait()
        record, (table,) = await replicator.record(), await replicator.tables()
        assert record is not None
        assert record.phase is Phase.COPYING
        known.append((record.incarnation, dict.fromkeys(numbers(table.published), run)))
        # Its snapshot and its locks outlive it.
        assert len(replicator.snapshot_sessions()) == 1
        source.execute("INSERT INTO t SELECT i, 'later' FROM generate_series(1, 10) i")
    # WHEN a third one follows
    await replicator.run(mode="copy-and-stream", once=True, copying=SMALL_RANGES)
    # THEN it goes on with the same incarnation, and no range that was published is begun again
    stored = await replicator.read_back()
    assert {incarnation for incarnation, _ in known} == {stored.record.incarnation}
    (table,) = stored.tables.values()
    assert table.published == [(0, table.ranges)]
    for _, published in known:
        for number, run in published.items():
            latest = max(map(run_of, stored.attempts[table.oid, number]))
            assert latest <= run, f"range {number} was begun again"
    assert stored.record.copy_runs == 3
    # and all rows are there, copied or streamed
    assert stored.copied_integers("public.t") == list(range(1, 50001))
    assert len(stored.inserted()) == 20
    assert replicator.snapshot_sessions() == []
    assert stored.record.snapshot is None


async def test_a_stopped_copy_goes_on_where_it_was(replicator: Replicator) -> None:
    replicator.source.execute(*BIG_TABLE)
    running = replicator.start(mode="copy", copying=SMALL_RANGES)
    await replicator.until_published_ranges(20)
    await running.stop()
    (table,) = await replicator.tables()
    assert table.published_ranges < table.ranges
    # (A table that is there since is not of this copy, and that is told.)
    replicator.source.execute("CREATE TABLE late (id int PRIMARY KEY)")
    with capture_logs() as logs:
        await replicator.run(mode="copy", copying=SMALL_RANGES)
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["tables"] == "public.late"
    assert "--restart" in warning["hint"]
    stored = await replicator.read_back()
    assert stored.copied_integers("public.t") == list(range(1, 50001))
    again = [n for n in numbers(table.published) if len(stored.attempts[table.oid, n]) > 1]
    assert again == []


async def test_a_copy_that_the_broker_lost_before_a_sink_had_it_is_made_again(
    replicator: Replicator,
) -> None:
    source = replicator.source
    source.execute(*BIG_TABLE)
    await replicator.run(mode="copy-and-stream", once=True, copying=SMALL_RANGES)
    first = (await replicator.read_back()).record
    source.execute("UPDATE t SET id = -id WHERE id <= 10")
    await replicator.delete_stream("copy")
    await replicator.run(mode="copy-and-stream", once=True, copying=SMALL_RANGES)
    stored = await replicator.read_back()
    assert stored.record.incarnation == first.incarnation
    assert stored.record.layout == first.layout + 1
    assert stored.copied_integers("public.t") == [*range(-10, 0), *range(11, 50001)]


async def test_a_table_that_joins_a_group_is_copied_and_streamed_and_no_other_is_copied_again(
    replicator: Replicator,
) -> None:
    # GIVEN a group of one table that streams, and a table beside it
    source = replicator.source
    source.execute(
        *BIG_TABLE,
        "CREATE TABLE late (id bigserial PRIMARY KEY, v text)",
        "INSERT INTO late (v) SELECT 'old' FROM generate_series(1, 20000)",
    )
    await replicator.run(
        mode="copy-and-stream", once=True, copying=SMALL_RANGES, tables=("public.t",)
    )
    before = await replicator.read_back()
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(source.dsn) as conn:
            while not stop.is_set():
                conn.execute("INSERT INTO late (v) VALUES ('new')")
                conn.execute("INSERT INTO t VALUES (-1, 'new')")
                conn.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        # WHEN it is named as well, and the first start with it is killed
        both = ("public.t", "public.late")
        process = replicator.spawn(mode="copy-and-stream", copying=SMALL_RANGES, tables=both)
        await replicator.until_published_ranges(1, "late")
        process.kill()
        process.wait()
        running = replicator.start(mode="copy-and-stream", copying=SMALL_RANGES, tables=both)
        await replicator.until_streaming()
    finally:
        stop.set()
        writer.join()
    await replicator.until_published(replicator.wal_lsn())
    await running.stop()
    # THEN a row of it is copied or comes behind its point, never both, and none is missing
    stored = await replicator.read_back()
    tables = {table.name: table for table in stored.tables.values()}
    late = tables["late"]
    streamed = [
        int(message[2][0][1])
        for (commit_lsn, _), message in stored.changes
        if message[0] == "I" and message[1] == late.oid and commit_lsn >= late.snapshot_lsn
    ]
    everything = [row[0] for row in source.rows("SELECT id FROM late ORDER BY id")]
    assert sorted(stored.copied_integers("public.late") + streamed) == everything
    assert streamed, "the writer was too slow for this test to show anything"
    # and the other table is streamed on as it was
    assert stored.record.incarnation == before.record.incarnation
    assert (stored.record.layout, stored.record.joining) == (before.record.layout + 1, [])
    old_oid = tables["t"].oid
    assert tables["t"] == before.tables[old_oid]
    first = {key: runs for key, runs in stored.attempts.items() if key[0] == old_oid}
    assert first == before.attempts
    inserted = [m for _, m in stored.changes if m[0] == "I" and m[1] == old_oid]
    assert len(inserted) == source.value("SELECT count(*) FROM t WHERE id = -1")
    # and every change of the new table stands in an envelope that tells of it
    layouts = [header.layout for header in stored.headers]
    assert layouts == sorted(layouts)
    assert replicator.objects_at_source() == [f"pgflo_{replicator.group}"] * 2


async def test_a_table_that_cannot_be_replicated_does_not_join(replicator: Replicator) -> None:
    source = replicator.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE keyless (id int)")
    await replicator.run(mode="copy-and-stream", once=True, tables=("public.t",))
    with pytest.raises(PgfloError) as refused:
        await replicator.run(
            mode="copy-and-stream", once=True, tables=("public.t", "public.keyless")
        )
    assert refused.value.kind is errors.TABLE_WITHOUT_IDENTITY
    # Its rows can still be changed at the source, and the group goes on without it.
    source.execute("INSERT INTO keyless VALUES (1)", "UPDATE keyless SET id = 2")
    await replicator.run(mode="copy-and-stream", once=True, tables=("public.t",))


async def test_a_table_joins_when_the_copy_under_way_is_complete(replicator: Replicator) -> None:
    source = replicator.source
    source.execute(*BIG_TABLE, "CREATE TABLE late (id int PRIMARY KEY)")
    source.execute("INSERT INTO late SELECT generate_series(1, 100)")
    process = replicator.spawn(mode="copy-and-stream", copying=SMALL_RANGES, tables=("public.t",))
    await replicator.until_published_ranges(20)
    process.kill()
    process.wait()
    (before,) = await replicator.tables()
    await replicator.run(mode="copy-and-stream", once=True, copying=SMALL_RANGES)
    stored = await replicator.read_back()
    table = stored.tables[before.oid]
    assert table.snapshot_lsn == before.snapshot_lsn
    again = [n for n in numbers(before.published) if len(stored.attempts[table.oid, n]) > 1]
    assert again == []
    assert stored.copied_integers("public.t") == list(range(1, 50001))
    assert stored.copied_integers("public.late") == list(range(1, 101))


async def test_a_snapshot_that_nobody_takes_up_ends_after_its_linger(
    replicator: Replicator,
) -> None:
    replicator.source.execute(*BIG_TABLE)
    copying = SMALL_RANGES.model_copy(update={"snapshot_linger_s": 0.5})
    process = replicator.spawn(mode="copy-and-stream", copying=copying)
    await replicator.until_published_ranges(5)
    process.kill()
    process.wait()
    await until(lambda: not replicator.snapshot_sessions(), "snapshot gone")


async def test_dropping_a_group_ends_the_snapshot_of_its_unfinished_copy(
    replicator: Replicator,
) -> None:
    replicator.source.execute(*BIG_TABLE)
    process = replicator.spawn(mode="copy-and-stream", copying=SMALL_RANGES)
    await replicator.until_published_ranges(5)
    process.kill()
    process.wait()
    snapshot = "the snapshot of an unfinished copy"
    assert snapshot in await list_group(replicator.source.dsn, replicator.group)
    assert snapshot in await drop_group(replicator.source.dsn, replicator.group)
    assert replicator.snapshot_sessions() == []
    assert replicator.objects_at_source() == []
