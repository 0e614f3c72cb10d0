"""Several writers: each change once, each key in order, barriers where one must be alone."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from tests.fix_changes import table_rows
from tests.fix_shards import assigned, held, shard_positions, some_shard_waits
from tests.processes import command_line, descendants

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.worker import shards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fix_postgres import Query
    from tests.fix_stream import Stream

KEYED = "CREATE TABLE t (id int PRIMARY KEY, v text)"
SMALL = {"epoch_bytes": 64 * 1024, "batch_rows": 50}
"""Limits under which a few hundred changes are many epochs."""

TO_AND_FRO = (
    "BEGIN; INSERT INTO t VALUES (-1, 'a'); UPDATE t SET id = -2 WHERE id = -1;"
    " UPDATE t SET id = -1 WHERE id = -2; DELETE FROM t WHERE id = -1; COMMIT"
)


def make(stream: Stream, statements: Query) -> None:
    stream.changes.source.execute(statements)
    stream.target.execute(statements)
    stream.changes.frames()


def assert_equal(stream: Stream, *tables: str) -> None:
    for table in tables:
        assert table_rows(stream.target, table) == table_rows(stream.changes.source, table)


async def publish(stream: Stream, statements: Sequence[Query], **limits: int) -> None:
    """Run statements at the source, each its own transaction, and publish what they change."""
    stream.changes.source.execute(*statements)
    await stream.publish(stream.changes.envelopes(**limits))


def inserts(first: int, last: int) -> sql.Composed:
    return sql.SQL("INSERT INTO t SELECT g, repeat('v', 50) FROM generate_series({}, {}) g").format(
        first, last
    )


async def test_a_key_is_written_in_the_order_of_the_source_and_by_one_shard(
    stream: Stream,
) -> None:
    make(stream, "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL)")
    # GIVEN a destination that writes down which session wrote which version, in which order
    stream.target.execute(
        "CREATE TABLE written (n bigserial, id int, v int, pid int DEFAULT pg_backend_pid())",
        "CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO public.written (id, v) VALUES (new.id, new.v); RETURN new; END $$",
        "CREATE TRIGGER w AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION write_down()",
        "ALTER TABLE t ENABLE ALWAYS TRIGGER w",
    )
    await publish(stream, ["INSERT INTO t SELECT g, 0 FROM generate_series(1, 40) g"])
    async with stream.worker(shards=4, **SMALL) as task:
        for _ in range(30):
            await publish(
                stream,
                [
                    "UPDATE t SET v = v + 1 WHERE id % 3 = 0",
                    "UPDATE t SET v = v + 1 WHERE id % 5 = 0",
                    "UPDATE t SET v = v + 1",
                ],
            )
        await stream.caught_up(task)
    assert_equal(stream, "t")
    assert assigned(stream.target) == {"t": ["id"]}
    # The first epoch made the table known: it was a barrier, and one session's alone.
    disorder = stream.target.value(
        "SELECT count(*) FROM (SELECT v <= lag(v) OVER (PARTITION BY id ORDER BY n) AS wrong"
        " FROM written) w WHERE wrong"
    )
    assert disorder == 0
    sessions = "SELECT count(DISTINCT pid) FROM written WHERE v > 5"
    assert stream.target.value(sessions) == 4
    several = "SELECT count(*) FROM (SELECT FROM written WHERE v > 5 GROUP BY id"
    assert stream.target.value(f"{several} HAVING count(DISTINCT pid) > 1) s") == 0


async def test_truncates_and_moving_keys_stand_where_the_source_had_them(stream: Stream) -> None:
    make(stream, KEYED)
    async with stream.worker(shards=3, **SMALL) as task:
        await publish(stream, [inserts(1, 300)])
        for base in (1000, 2000, 3000):
            await publish(
                stream,
                [
                    inserts(base, base + 200),
                    "UPDATE t SET id = id + 100000 WHERE id % 7 = 0",
                    "UPDATE t SET v = 'touched' WHERE id > 100000",
                    TO_AND_FRO,
                ],
            )
        await stream.caught_up(task)
        assert_equal(stream, "t")
        await publish(stream, [inserts(5000, 5400), "TRUNCATE t", inserts(5100, 5200)])
        await publish(
            stream,
            ["BEGIN; TRUNCATE t; INSERT INTO t VALUES (1, 'first'); TRUNCATE t; COMMIT"],
        )
        await publish(stream, [inserts(1, 100), "UPDATE t SET id = id - 50"])
        await stream.caught_up(task)
    assert_equal(stream, "t")
    assert stream.target.value("SELECT count(*) FROM t") == 100


@pytest.mark.timeout(240)
async def test_a_transaction_of_300_000_rows_with_a_barrier_in_its_middle(stream: Stream) -> None:
    make(stream, KEYED)
    await publish(stream, [inserts(1, 1000)])
    async with stream.worker(shards=3, epoch_bytes=4 << 20) as task:
        await stream.caught_up(task)
        halves = sql.SQL("; ").join(
            [
                sql.SQL("BEGIN"),
                inserts(10_001, 160_000),
                sql.SQL("UPDATE t SET id = -id WHERE id <= 1000"),
                inserts(160_001, 310_000),
                sql.SQL("COMMIT"),
            ]
        )
        await publish(stream, [halves])
        await stream.caught_up(task)
        assert_equal(stream, "t")
        wanted = stream.changes.end_lsn
        await stream.told(lambda sink: sink.end_lsn == wanted)


async def test_a_worker_goes_on_behind_a_barrier_inside_a_transaction(stream: Stream) -> None:
    make(stream, KEYED)
    make(stream, "CREATE TABLE log (n int, v text); ALTER TABLE log REPLICA IDENTITY FULL")
    await publish(stream, [inserts(1, 10), "INSERT INTO log VALUES (0)"])
    stream.changes.source.execute(
        "BEGIN; TRUNCATE t; INSERT INTO log SELECT g, repeat('v', 200) FROM generate_series(1, 600)"
        " g; INSERT INTO t VALUES (1, 'x'); COMMIT"
    )
    # GIVEN a transaction whose end is not in the stream yet
    *beginning, ending = stream.changes.envelopes(target_body_bytes=90_000, max_body_bytes=90_000)
    assert beginning
    await stream.publish(beginning)
    inside = (beginning[-1].commit_lsn, beginning[-1].ordinal)
    for _ in range(2):
        async with stream.worker(shards=3, epoch_bytes=64 * 1024) as task:
            # WHEN all shards have committed inside of it, and the worker ends
            await stream.told(lambda sink: sink.phase == "streaming")
            await stream.until(lambda: stream.position() == inside, task)
        assert stream.target.value("SELECT max(end_lsn) < min(commit_lsn) FROM pgflo.progress")
    # THEN the next one takes the rest, and repeats nothing
    await stream.publish([ending])
    async with stream.worker(shards=3, epoch_bytes=64 * 1024) as task:
        await stream.caught_up(task)
        await stream.told(lambda sink: sink.end_lsn == ending.end_lsn)
    assert_equal(stream, "log", "t")


async def test_the_row_of_an_idle_shard_moves_along(stream: Stream) -> None:
    make(stream, KEYED)
    await publish(stream, [inserts(1, 100)])
    async with stream.worker(shards=4) as task:
        await stream.caught_up(task)
        for number in range(3):
            # One key, one shard: the other three have nothing to do.
            await publish(stream, [sql.SQL("UPDATE t SET v = {} WHERE id = 7").format(f"{number}")])
            await stream.caught_up(task)
            assert set(shard_positions(stream.target)) == {stream.changes.position}
        wanted = stream.changes.position
        await stream.told(lambda sink: (sink.commit_lsn, sink.ordinal) == wanted)


async def test_what_one_shard_has_not_committed_is_not_reported(stream: Stream) -> None:
    make(stream, KEYED)
    await publish(stream, [inserts(1, 100)])
    async with stream.worker(shards=3) as task:
        await stream.caught_up(task)
        before = stream.changes.position
        # GIVEN a shard that waits for a lock of somebody else
        with held(stream.target, "t", 7):
            await publish(stream, ["UPDATE t SET v = 'new'"])
            await stream.until(lambda: some_shard_waits(stream.target), task)
            await stream.until(lambda: max(shard_positions(stream.target)) > before, task)
            # THEN the others have committed, and the group is told of none of it
            told = (await stream.record.sinks())["postgres"]
            assert (told.commit_lsn, told.ordinal) <= before
            assert stream.position() == before
        await stream.caught_up(task)
    assert_equal(stream, "t")


async def test_somebody_s_lock_between_two_shards_of_one_transaction_stops_nothing(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "STUCK_S", 0.5)
    make(stream, KEYED)
    await publish(stream, [inserts(1, 100)])
    async with stream.worker(shards=3, epoch_bytes=64 * 1024) as task:
        await stream.caught_up(task)
        # GIVEN a transaction that one shard has open, since it began with changes of one key
        stream.changes.source.execute(
            "BEGIN; DO $$ BEGIN FOR n IN 1..600 LOOP"
            " UPDATE t SET v = repeat(n::text, 100) WHERE id = 7; END LOOP; END $$;"
            " UPDATE t SET v = repeat('w', 1000); COMMIT"
        )
        limits = {"target_body_bytes": 32768, "max_body_bytes": 32768}
        envelopes = stream.changes.envelopes(**limits)
        await stream.publish(envelopes[:3])
        await stream.until(lambda: holds_lock(stream, "RowExclusiveLock"), task)
        # WHEN somebody waits for that shard, and the others behind him
        with stream.target.connect() as conn:
            conn.execute("SET statement_timeout = 50000")
            altering = asyncio.create_task(
                asyncio.to_thread(conn.execute, "ALTER TABLE t ADD w int")
            )
            await stream.until(lambda: waits_for_lock(stream, "AccessExclusiveLock"), task)
            await stream.publish(envelopes[3:])
            await stream.caught_up(task)
            await altering
    assert stream.target.rows("SELECT DISTINCT v FROM t") == [("w" * 1000,)]


def holds_lock(stream: Stream, mode: str) -> bool:
    return has_lock(stream, mode, granted=True)


def waits_for_lock(stream: Stream, mode: str) -> bool:
    return has_lock(stream, mode, granted=False)


def has_lock(stream: Stream, mode: str, *, granted: bool) -> bool:
    return bool(
        stream.target.rows(
            "SELECT pid FROM pg_locks"
            " WHERE relation = 't'::regclass AND mode = %s AND granted = %s",
            [mode, granted],
        )
    )


async def test_a_table_that_comes_later_or_changes_is_assigned_on_the_way(stream: Stream) -> None:
    make(stream, KEYED)
    await publish(stream, [inserts(1, 200)])
    async with stream.worker(shards=3, **SMALL) as task:
        await stream.caught_up(task)
        make(stream, "CREATE TABLE later (a uuid, b bigint, v text, PRIMARY KEY (b, a))")
        await publish(
            stream,
            ["INSERT INTO later SELECT gen_random_uuid(), g, 'v' FROM generate_series(1, 300) g"]
            + ["UPDATE later SET v = v || 'x' WHERE b % 2 = 0"] * 3,
        )
        await stream.caught_up(task)
        assert assigned(stream.target) == {"t": ["id"], "later": ["b", "a"]}
        make(stream, "ALTER TABLE t ADD w int DEFAULT 1")
        await publish(stream, ["UPDATE t SET w = id", inserts_with_w(300, 400)])
        await stream.caught_up(task)
        make(stream, "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (w)")
        await publish(stream, ["UPDATE t SET v = 'by w'", "DELETE FROM t WHERE w % 3 = 0"])
        await stream.caught_up(task)
        assert assigned(stream.target) == {"t": ["w"], "later": ["b", "a"]}
    assert_equal(stream, "t", "later")


def inserts_with_w(first: int, last: int) -> sql.Composed:
    return sql.SQL("INSERT INTO t SELECT g, 'v', g FROM generate_series({}, {}) g").format(
        first, last
    )


async def test_a_role_that_may_not_switch_foreign_keys_off_gets_one_shard(
    stream: Stream, capsys: pytest.CaptureFixture[str]
) -> None:
    make(stream, KEYED)
    stream.target.execute('DROP ROLE IF EXISTS "Plain"', 'CREATE ROLE "Plain" LOGIN')
    database = sql.Identifier(stream.target.name)
    stream.target.execute(
        sql.SQL('GRANT CREATE ON DATABASE {} TO "Plain"').format(database),
        'GRANT ALL ON t TO "Plain"',
    )
    stream.as_user("Plain")
    try:
        await publish(stream, [inserts(1, 100)])
        await stream.run_to_end(shards=4, once=True)
    finally:
        stream.target.execute('DROP SCHEMA pgflo CASCADE; DROP OWNED BY "Plain"; DROP ROLE "Plain"')
    told = capsys.readouterr()
    assert "one shard" in re.sub(r"\s+", " ", told.out + told.err)
    assert_equal(stream, "t")


async def test_each_shard_has_its_process_and_its_session(stream: Stream) -> None:
    make(stream, KEYED)
    await publish(stream, [inserts(1, 100)])
    async with stream.worker(shards=3) as task:
        await stream.caught_up(task)
        titles = {
            match[0]
            for child in descendants("pgflo g writer")
            if (match := re.search(r"pgflo g writer \d", command_line(child)))
        }
        assert titles == {f"pgflo g writer {number}" for number in range(3)}
        roles = stream.target.rows(
            "SELECT substring(application_name FROM ' (shard[0-9]+) ') AS role"
            " FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name ~ ' shard[0-9]+ ' ORDER BY role"
        )
        assert roles == [("shard0",), ("shard1",), ("shard2",)]


async def test_a_shard_whose_row_was_taken_ends_the_worker(stream: Stream) -> None:
    make(stream, KEYED)
    await publish(stream, [inserts(1, 100)])

    async def lose_a_row() -> None:
        async with stream.worker(shards=2) as task:
            await stream.caught_up(task)
            stream.target.execute("UPDATE pgflo.progress SET fence = fence + 1 WHERE shard = 1")
            await publish(stream, ["UPDATE t SET v = 'new'"])
            await task

    with pytest.raises(PgfloError) as refused:
        await lose_a_row()
    assert refused.value.kind is errors.GROUP_SUPERSEDED
