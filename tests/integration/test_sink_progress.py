"""The progress row: who may move it, from where, and what stands in the way of everybody else."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.fix_changes import bodies, on_both

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.sinks.contract import Progress, Range
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.connection import Destination
from pgflo.sinks.postgres.landing import Target
from pgflo.sinks.postgres.prepare import NotEmpty, SourceTable, prepare
from pgflo.sinks.postgres.range_copy import RangeCopy

if TYPE_CHECKING:
    from tests.fix_changes import Changes, Sink
    from tests.fix_postgres import Database

START = 0x100


def destination(target: Database, owner: uuid.UUID | None = None) -> Destination:
    return Destination(target.dsn, "g", "postgres", owner or uuid.uuid4())


def begin(
    to: Destination,
    *tables: SourceTable,
    incarnation: uuid.UUID,
    not_empty: NotEmpty = "error",
) -> bool:
    with to.connect("prepare") as conn:
        return prepare(conn, to, tables, incarnation, START, not_empty, again=False)


def table(name: str, *columns: str, oid: int = 1) -> SourceTable:
    return SourceTable(oid, "public", name, None, columns, copied=True, snapshot_lsn=START)


def test_a_session_left_behind_does_not_keep_its_locks(target: Database) -> None:
    # GIVEN a session of ours that moved the row, and whose COMMIT never arrived
    to = destination(target)
    begin(to, incarnation=uuid.uuid4())
    left_behind = to.connect("shard0")
    held = progress.take(left_behind, to)
    left_behind.execute("BEGIN")
    progress.move(left_behind, to, held, (START + 1, 1), START + 2)
    # WHEN the writer connects again
    with to.connect("shard0") as conn:
        taken = progress.take(conn, to)
    # THEN it has the row at once, where it was
    assert taken.position == (START, 0)
    with pytest.raises(psycopg.OperationalError):
        left_behind.execute("COMMIT")


def test_a_commit_in_flight_is_waited_for_and_seen(target: Database) -> None:
    to = destination(target)
    begin(to, incarnation=uuid.uuid4())
    # As another role name: this one is not ended, its commit is still under way.
    with to.connect("shard7") as slow, to.connect("shard0") as conn:
        held = progress.take(slow, to)
        slow.execute("BEGIN")
        progress.move(slow, to, held, (START + 5, 1), START + 6)
        waits = sql.SQL(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
        taken: list[Progress] = []
        thread = threading.Thread(target=lambda: taken.append(progress.take(conn, to)))
        thread.start()
        while target.value(waits) == 0:
            assert thread.is_alive()
        slow.execute("COMMIT")
        thread.join()
    assert taken[0].position == (START + 5, 1)


def test_a_superseded_writer_moves_nothing(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE log (n int)")
    transactions = sink.open()
    changes.source.execute("INSERT INTO log VALUES (1)")
    envelopes = changes.envelopes()
    transactions.step(bodies(envelopes))
    # WHEN another run takes over, which does not wait for the old one
    other = replace(sink.to, owner=uuid.uuid4())
    with other.connect("prepare") as conn:
        progress.take_over(conn, other)
    # THEN neither its transaction nor another connection of it gets through
    with pytest.raises(PgfloError) as refused:
        transactions.commit(changes.position, changes.end_lsn)
    assert refused.value.kind is errors.GROUP_SUPERSEDED
    assert refused.value.exit_code == errors.Exit.RUNNING
    with pytest.raises(PgfloError) as refused:
        sink.open()
    assert refused.value.kind is errors.GROUP_SUPERSEDED
    sink.close()
    assert sink.target.value("SELECT count(*) FROM log") == 0


def spread(to: Destination, shards: int) -> list[Progress]:
    """Give a destination so many rows, as it stands."""
    with to.connect("worker") as conn:
        rows = progress.take_all(conn, to)
        with conn.transaction():
            progress.spread(conn, to, rows, shards)
        return progress.take_all(conn, to)


def test_rows_that_are_made_again_fit_none_who_held_one_before(target: Database) -> None:
    to = destination(target)
    begin(to, incarnation=uuid.uuid4())
    with to.connect("shard2") as conn:
        spread(to, 3)
        for _ in range(5):
            held = progress.take(conn, to, 2)
        # WHEN the shard is given up and made again at the same position
        spread(to, 1)
        spread(to, 3)
        # THEN its former holder moves nothing
        conn.execute("BEGIN")
        with pytest.raises(PgfloError) as refused:
            progress.move(conn, to, held, (START + 1, 1), START + 2)
    assert refused.value.kind is errors.GROUP_SUPERSEDED


def test_a_barrier_moves_all_rows_or_none(target: Database) -> None:
    to = destination(target)
    begin(to, incarnation=uuid.uuid4())
    first, second, third = spread(to, 3)
    with to.connect("shard0") as conn, to.connect("shard2") as other:
        # GIVEN a shard whose row moved, and one that does not know
        other.execute("BEGIN")
        progress.move(other, to, third, (START + 1, 1), START + 2)
        other.execute("COMMIT")
        with pytest.raises(PgfloError) as refused, conn.transaction():
            progress.move(conn, to, first, (START + 5, 1), START + 6, [third, second])
        assert refused.value.kind is errors.GROUP_SUPERSEDED
        moved = replace(third, commit_lsn=START + 1, ordinal=1)
        with conn.transaction():
            progress.move(conn, to, first, (START + 5, 1), START + 6, [moved, second])
        assert {row.position for row in progress.take_all(conn, to)} == {(START + 5, 1)}


def test_another_incarnation_begins_with_one_shard(target: Database) -> None:
    to = destination(target)
    begin(to, incarnation=uuid.uuid4())
    before = spread(to, 4)
    incarnation = uuid.uuid4()
    begin(to, incarnation=incarnation)
    with to.connect("worker") as conn:
        (row,) = progress.take_over(conn, to)
    assert (row.shard, row.incarnation, row.position) == (0, incarnation, (START, 0))
    assert row.fence > max(row.fence for row in before)


def test_a_new_run_ends_the_sessions_of_former_ones(target: Database) -> None:
    first, second = destination(target), destination(target)
    incarnation = uuid.uuid4()
    assert begin(first, incarnation=incarnation) is True
    stale = first.connect("copy3")
    stale.execute("BEGIN")
    own = second.connect("copy3")
    assert begin(second, incarnation=incarnation) is False
    with pytest.raises(psycopg.OperationalError):
        stale.execute("SELECT 1")
    assert own.execute("SELECT 1").fetchone() == (1,)
    own.close()


def test_tables_with_rows_stop_a_first_copy_and_are_all_named(target: Database) -> None:
    target.execute(
        "CREATE TABLE a (n int); CREATE TABLE b (n int); CREATE TABLE c (n int);"
        "INSERT INTO a VALUES (1); INSERT INTO c VALUES (1)"
    )
    tables = [table(name, "n", oid=oid) for oid, name in enumerate("abc", 1)]
    with pytest.raises(PgfloError, match=r'"a", "public"\."c"') as refused:
        begin(destination(target), *tables, incarnation=uuid.uuid4())
    assert refused.value.kind is errors.SINK_NOT_EMPTY
    assert target.value("SELECT count(*) FROM pgflo.progress") == 0
    begin(destination(target), *tables, incarnation=uuid.uuid4(), not_empty="append")
    assert target.value("SELECT count(*) FROM a") == 1


def test_rows_are_truncated_when_that_was_asked_for(target: Database) -> None:
    target.execute(
        "CREATE TABLE a (n int PRIMARY KEY); CREATE TABLE b (n int REFERENCES a);"
        "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)"
    )
    tables = [table("a", "n", oid=1), table("b", "n", oid=2)]
    begin(destination(target), *tables, incarnation=uuid.uuid4(), not_empty="truncate")
    assert target.rows("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)") == [(0, 0)]


def test_rows_of_a_former_incarnation_are_ours_to_remove(target: Database) -> None:
    target.execute("CREATE TABLE a (n int)")
    first = uuid.uuid4()
    begin(destination(target), table("a", "n"), incarnation=first)
    target.execute("INSERT INTO a VALUES (1)")
    # The same incarnation again leaves them alone.
    assert begin(destination(target), table("a", "n"), incarnation=first) is False
    assert target.value("SELECT count(*) FROM a") == 1
    assert begin(destination(target), table("a", "n"), incarnation=uuid.uuid4()) is True
    assert target.value("SELECT count(*) FROM a") == 0


def test_all_missing_tables_and_columns_are_named(target: Database) -> None:
    with pytest.raises(PgfloError, match=r"public\.x, public\.y") as refused:
        begin(destination(target), table("x", oid=1), table("y", oid=2), incarnation=uuid.uuid4())
    assert refused.value.kind is errors.SINK_TABLE_MISSING
    target.execute("CREATE TABLE a (n int)")
    with pytest.raises(PgfloError, match=r"public\.a\.m, public\.a\.o") as refused:
        begin(destination(target), table("a", "n", "m", "o"), incarnation=uuid.uuid4())
    assert refused.value.kind is errors.SINK_COLUMN_MISSING


def test_a_range_is_committed_with_its_row_in_the_ledger_or_not_at_all(target: Database) -> None:
    target.execute("CREATE TABLE a (n int, v text)")
    to, incarnation = destination(target), uuid.uuid4()
    begin(to, table("a", "n", "v"), incarnation=incarnation)
    wanted = Range(1, START, 0, 1)
    into = Target("public", "a", ("n", "v"), START, (23, 25), takes_binary=True)
    with to.connect("copy0") as conn:
        ranges = RangeCopy(conn, to, incarnation)
        ranges.begin(wanted, into, is_binary=False)
        ranges.write(memoryview(b"1\tone\n2\ttw"))
        ranges.abandon()
        assert not ranges.is_known(wanted)
        ranges.begin(wanted, into, is_binary=False)
        ranges.write(memoryview(b"1\tone\n2\ttw"))
        ranges.write(memoryview(b"o\n"))
        ranges.commit(2)
        assert ranges.is_known(wanted)
        other = Range(1, START, 1, 1)
        ranges.begin(other, into, is_binary=False)
        ranges.write(memoryview(b"3\tthree\n"))
        with pytest.raises(PgfloError, match="2 rows were read, 1 arrived") as refused:
            ranges.commit(2)
        assert refused.value.kind is errors.SINK_ROW_COUNT
    assert target.value("SELECT count(*) FROM a") == 2


def rows_of_a(snapshot_lsn: int) -> Target:
    return Target("public", "a", ("n",), snapshot_lsn, (23,), takes_binary=True)


def test_a_superseded_copy_writer_commits_nothing(target: Database) -> None:
    target.execute("CREATE TABLE a (n int)")
    to, incarnation = destination(target), uuid.uuid4()
    begin(to, table("a", "n"), incarnation=incarnation)
    with to.connect("copy0") as conn:
        ranges = RangeCopy(conn, to, incarnation)
        ranges.begin(Range(1, START, 0, 1), rows_of_a(START), is_binary=False)
        ranges.write(memoryview(b"1\n"))
        other = destination(target)
        with other.connect("prepare") as taking:
            progress.take_over(taking, other)
        with pytest.raises(PgfloError) as refused:
            ranges.commit(1)
    assert refused.value.kind is errors.GROUP_SUPERSEDED
    assert target.value("SELECT count(*) FROM a") == 0


def test_a_table_copied_anew_is_emptied_once_and_takes_no_range_of_its_former_copy(
    target: Database,
) -> None:
    # GIVEN two copied tables, and a range that is being loaded into one of them
    target.execute("CREATE TABLE a (n int)", "CREATE TABLE b (n int)")
    to, incarnation = destination(target), uuid.uuid4()
    a, b = table("a", "n", oid=1), table("b", "n", oid=2)
    begin(to, a, b, incarnation=incarnation)
    target.execute("INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)")
    with to.connect("copy0") as conn, to.connect("copy1") as later:
        late = RangeCopy(later, to, incarnation)
        late.begin(Range(1, START, 1, 1), rows_of_a(START), is_binary=False)
        late.write(memoryview(b"2\n"))
        late.commit(1)
        # WHEN it is to be copied under another snapshot
        anew = replace(a, snapshot_lsn=START + 8)
        assert begin(to, anew, b, incarnation=incarnation) is False
        # THEN it is empty, with its ledger, and the other one is not
        counts = "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)"
        assert target.rows(counts) == [(0, 1)]
        assert not late.is_known(Range(1, START, 1, 1))
        # and a range of the former one is refused, one of the new one is not
        stale = RangeCopy(conn, to, incarnation)
        stale.begin(Range(1, START, 0, 1), rows_of_a(START), is_binary=False)
        with pytest.raises(PgfloError) as refused:
            stale.commit(0)
        assert refused.value.kind is errors.GROUP_SUPERSEDED
        late.begin(Range(1, START + 8, 0, 1), rows_of_a(START + 8), is_binary=False)
        late.write(memoryview(b"3\n"))
        late.commit(1)
        # The same once more changes nothing.
        begin(to, anew, b, incarnation=incarnation)
        assert target.rows(counts) == [(1, 1)]


def test_a_copy_as_of_before_what_is_applied_is_refused(target: Database) -> None:
    # Its changes up to there went with the rows that are emptied, and do not come again.
    target.execute("CREATE TABLE a (n int)")
    to, incarnation = destination(target), uuid.uuid4()
    a = table("a", "n")
    begin(to, a, incarnation=incarnation)
    with to.connect("shard0") as conn:
        held = progress.take(conn, to)
        with conn.transaction():
            conn.execute("INSERT INTO public.a VALUES (1)")
            progress.move(conn, to, held, (START + 8, 1), START + 9)
    with pytest.raises(PgfloError, match=r"public\.a") as refused:
        begin(to, replace(a, snapshot_lsn=START + 8), incarnation=incarnation)
    assert refused.value.kind is errors.SINK_CHAIN_GAP
    assert target.value("SELECT count(*) FROM a") == 1
    begin(to, replace(a, snapshot_lsn=START + 9), incarnation=incarnation)
    assert target.value("SELECT count(*) FROM a") == 0


def test_a_table_that_joins_is_judged_alone(target: Database) -> None:
    target.execute("CREATE TABLE a (n int)", "CREATE TABLE b (n int)")
    to, incarnation = destination(target), uuid.uuid4()
    a, b = table("a", "n", oid=1), table("b", "n", oid=2)
    begin(to, a, incarnation=incarnation)
    target.execute("INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)")
    with pytest.raises(PgfloError, match=r'rows in "public"\."b"$') as refused:
        begin(to, a, b, incarnation=incarnation)
    assert refused.value.kind is errors.SINK_NOT_EMPTY
    begin(to, a, b, incarnation=incarnation, not_empty="truncate")
    assert target.rows("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)") == [(1, 0)]
    # Into a table that holds another's rows none is copied anew: they would go.
    other = replace(table("a", "n", oid=3), snapshot_lsn=START + 8)
    with pytest.raises(PgfloError, match="holds the rows of others") as shared:
        begin(to, a, b, other, incarnation=incarnation)
    assert shared.value.kind is errors.SINK_REFUSED
    assert target.value("SELECT count(*) FROM a") == 1


def test_sessions_mean_what_the_source_means_whatever_the_defaults_are(target: Database) -> None:
    defaults = {
        "datestyle": "German",
        "intervalstyle": "iso_8601",
        "timezone": "Asia/Tokyo",
        "synchronous_commit": "off",
        "search_path": "nowhere",
        "statement_timeout": "10000",
        "bytea_output": "escape",
    }
    options = " ".join(f"-c {name}={value}" for name, value in defaults.items())
    to = Destination(make_conninfo(target.dsn, options=options), "g", "postgres", uuid.uuid4())
    with to.connect("shard0") as conn:
        shown = {
            key: (conn.execute(sql.SQL("SHOW {}").format(sql.Identifier(key))).fetchone() or [""])[
                0
            ]
            for key in (
                "datestyle",
                "intervalstyle",
                "TimeZone",
                "synchronous_commit",
                "search_path",
                "statement_timeout",
                "bytea_output",
                "session_replication_role",
                "jit",
            )
        }
    assert shown == {
        "datestyle": "ISO, DMY",
        "intervalstyle": "postgres",
        "TimeZone": "UTC",
        "synchronous_commit": "local",
        "search_path": "",
        "statement_timeout": "0",
        "bytea_output": "hex",
        "session_replication_role": "replica",
        "jit": "off",
    }


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"port": "1"}, errors.SINK_UNREACHABLE),
        ({"dbname": "nowhere"}, errors.SINK_AUTH),
        ({"options": "-c default_transaction_read_only=on"}, errors.SINK_READ_ONLY),
    ],
)
def test_a_connection_that_fails_is_told_by_kind_without_its_password(
    target: Database, change: dict[str, str], kind: errors.Kind
) -> None:
    conninfo = make_conninfo(target.dsn, password="hunter2", **change)
    to = Destination(conninfo, "g", "postgres", uuid.uuid4())
    with pytest.raises(PgfloError) as refused:
        to.connect("shard0")
    assert refused.value.kind is kind
    assert "hunter2" not in f"{refused.value} {refused.value.context} {to!r}"


def test_a_role_that_may_not_switch_triggers_off_is_told_the_grant(
    target: Database, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    target.execute('DROP ROLE IF EXISTS "Odd Role"', 'CREATE ROLE "Odd Role" LOGIN')
    try:
        conninfo = make_conninfo(target.dsn, user="Odd Role")
        with Destination(conninfo, "g", "postgres", uuid.uuid4()).connect("x", warn=True):
            pass
    finally:
        target.execute('DROP ROLE "Odd Role"')
    said = caplog.text + capsys.readouterr().out
    assert 'GRANT SET ON PARAMETER session_replication_role TO "Odd Role"' in said.replace("\\", "")
