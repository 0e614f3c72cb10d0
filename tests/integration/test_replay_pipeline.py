"""Replay keeps thousands of statements in flight, never stalls, and hands the connection back."""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import pq
from tests.oracle.encode import encode
from tests.oracle.messages import Begin, Cell, Commit, Insert, Message, Relation, RelationColumn

from pgflo import _core
from pgflo._core import Statement

if TYPE_CHECKING:
    from tests.fix_postgres import Database
    from tests.fix_replay import Applier, OpenReplay

OID = 70_000
COMMIT_LSN = 1000
START = (1, 0)
TABLE = (
    "CREATE TABLE rows (id bigint PRIMARY KEY, body text CONSTRAINT tame CHECK (body <> 'wild'))"
)
RELATION = Relation(
    OID,
    b"public",
    b"rows",
    b"d",
    (RelationColumn(1, b"id", 20, -1), RelationColumn(0, b"body", 25, -1)),
)


def body_of(*messages: Message) -> bytes:
    """Put messages into one transaction of a body."""
    begin, commit = Begin(COMMIT_LSN, 0, 7), Commit(0, COMMIT_LSN, COMMIT_LSN + 8, 0)
    encoded = [encode(message) for message in (begin, RELATION, *messages, commit)]
    return b"".join(struct.pack(">I", len(message)) + message for message in encoded)


def row(number: int, body: bytes = b"tame") -> Insert:
    return Insert(OID, (("t", b"%d" % number), ("t", body)))


def assert_in_psycopgs_hands(connection: psycopg.Connection[Any]) -> None:
    """Check that the connection is out of pipeline mode, does not block, and answers."""
    assert connection.pgconn.pipeline_status == pq.PipelineStatus.OFF
    assert connection.pgconn.nonblocking == 1
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


@pytest.fixture
def applier(target: Database, open_replay: OpenReplay) -> Applier:
    target.execute(TABLE)
    return open_replay(target)


def test_two_hundred_thousand_statements_go_through_one_pipeline(
    target: Database, applier: Applier
) -> None:
    count = 200_000
    large = b"x" * 300_000
    rows = [row(number, large if number % 4000 == 0 else b"small") for number in range(count)]
    step = applier.apply_body(body_of(*rows), START, (0, 0))
    assert (step.kind, step.changes, step.ordinal) == (_core.STEP_DONE, count, count)
    assert target.rows(
        "SELECT count(*), count(*) FILTER (WHERE length(body) = 300000) FROM rows"
    ) == [(count, count // 4000)]
    assert_in_psycopgs_hands(applier.connection)


def test_answers_as_large_as_the_statements_do_not_stall_the_pipeline(
    target: Database, applier: Applier
) -> None:
    # GIVEN statements whose answers fill every buffer on the way back while we fill those on the
    # way there: who only writes, or only reads, waits for ever
    target.execute("INSERT INTO rows VALUES (0, '')")
    applier.connection.execute(
        "PREPARE echo (bigint, text) AS UPDATE rows SET body = $2 WHERE id = $1 RETURNING body"
    )
    body = body_of(*[row(0, bytes([65 + number % 26]) * 100_000) for number in range(1000)])
    with applier.connection.transaction():
        applier.replay.load(body, START, (0, 0))
        assert applier.replay.run(careful=False).kind == _core.STEP_RELATION
        asked = applier.replay.run(careful=False)
        assert asked.shape is not None
        applier.replay.register(asked.shape.id, Statement("echo", [("new", 0), ("new", 1)]))
        step = applier.replay.run(careful=False)
    assert (step.kind, step.changes) == (_core.STEP_DONE, 1000)
    assert_in_psycopgs_hands(applier.connection)


@pytest.mark.parametrize("careful", [False, True], ids=["pipelined", "careful"])
def test_the_first_change_that_the_server_refuses_is_named(
    target: Database,
    applier: Applier,
    careful: bool,
) -> None:
    rows = [
        row(number, b"wild" if number in {3000, 3500} else b"tame") for number in range(1, 6000)
    ]
    step = applier.apply_body(body_of(*rows), START, (0, 0), careful=careful)
    assert (step.kind, step.sqlstate, step.constraint) == (_core.STEP_FAILED, "23514", "tame")
    assert (step.commit_lsn, step.ordinal, step.matched_rows) == (COMMIT_LSN, 3000, -1)
    assert step.relation is not None
    assert step.relation.name == "rows"
    assert_in_psycopgs_hands(applier.connection)
    assert target.rows("SELECT count(*) FROM rows") == [(0,)]


def test_an_unexpected_row_count_is_named_before_a_later_error(
    target: Database, applier: Applier
) -> None:
    target.execute("INSERT INTO rows SELECT i FROM generate_series(1, 100) i WHERE i <> 40")
    applier.connection.execute(
        "PREPARE change (bigint, text) AS UPDATE rows SET body = $2 WHERE id = $1"
    )
    rows = [row(number, b"wild" if number == 60 else b"tame") for number in range(1, 101)]
    with applier.connection.transaction(force_rollback=True):
        applier.replay.load(body_of(*rows), START, (0, 0))
        applier.replay.run(careful=False)
        asked = applier.replay.run(careful=False)
        assert asked.shape is not None
        applier.replay.register(asked.shape.id, Statement("change", [("new", 0), ("new", 1)]))
        step = applier.replay.run(careful=False)
    assert (step.kind, step.ordinal, step.matched_rows) == (_core.STEP_FAILED, 40, 0)
    assert step.sqlstate == ""
    assert_in_psycopgs_hands(applier.connection)


def test_a_refused_body_is_applied_carefully_after_the_rollback(
    target: Database, applier: Applier
) -> None:
    target.execute("INSERT INTO rows VALUES (2, 'old')")
    body = body_of(*[row(number) for number in range(1, 4)])
    refused = applier.apply_body(body, START, (0, 0))
    assert (refused.kind, refused.sqlstate, refused.ordinal) == (_core.STEP_FAILED, "23505", 2)
    assert refused.constraint == "rows_pkey"
    step = applier.apply_body(body, START, (0, 0), careful=True)
    assert step.kind == _core.STEP_DONE
    ((oid, kind, changes, first),) = step.conflicts
    assert (oid in applier.relations, kind, changes, first[1]) == (True, "insert_exists", 1, 2)
    assert target.rows("SELECT * FROM rows ORDER BY id") == [(i, "tame") for i in (1, 2, 3)]


def test_a_failed_body_is_not_gone_on_with(applier: Applier) -> None:
    body = body_of(row(1, b"wild"))
    assert applier.apply_body(body, START, (0, 0)).kind == _core.STEP_FAILED
    with pytest.raises(_core.EnvelopeError, match="no body is loaded"):
        applier.replay.run(careful=False)


def test_a_body_that_breaks_off_raises_and_leaves_the_connection_usable(
    target: Database, applier: Applier
) -> None:
    body = body_of(*[row(number) for number in range(1000)])
    with applier.connection.transaction(force_rollback=True):
        with pytest.raises(_core.DecodeError):
            applier.apply_body(body[:-40], START, (0, 0))
        assert_in_psycopgs_hands(applier.connection)
    assert target.rows("SELECT count(*) FROM rows") == [(0,)]


@pytest.mark.parametrize(
    ("cell", "sqlstate"),
    [(("t", b"a\0b"), "22021"), (("b", b"a\0b"), "22021")],
    ids=["in text form", "in binary form"],
)
def test_a_nul_byte_in_a_text_is_refused_never_cut_off(
    applier: Applier, cell: Cell, sqlstate: str
) -> None:
    body = body_of(row(1), Insert(OID, (("t", b"2"), cell)), row(3))
    step = applier.apply_body(body, START, (0, 0))
    assert (step.kind, step.sqlstate, step.ordinal) == (_core.STEP_FAILED, sqlstate, 2)
    assert_in_psycopgs_hands(applier.connection)


def test_binary_and_empty_cells_arrive_as_they_are(target: Database, applier: Applier) -> None:
    body = body_of(
        Insert(OID, (("b", struct.pack(">q", 5)), ("b", b"five"))),
        Insert(OID, (("t", b"6"), ("b", b""))),
        Insert(OID, (("t", b"7"), ("t", b""))),
        Insert(OID, (("t", b"8"), ("n", b""))),
    )
    assert applier.apply_body(body, START, (0, 0)).kind == _core.STEP_DONE
    assert target.rows("SELECT * FROM rows ORDER BY id") == [
        (5, "five"),
        (6, ""),
        (7, ""),
        (8, None),
    ]


def test_a_connection_killed_in_the_middle_is_a_failure_with_its_sqlstate(
    target: Database, applier: Applier
) -> None:
    # GIVEN a replay that waits for a row that somebody else holds
    target.execute("INSERT INTO rows VALUES (5000, '')")
    pid = applier.connection.info.backend_pid
    holder = target.connect()
    steps: list[_core.Step] = []
    applier.connection.execute(
        "PREPARE put (bigint, text) AS INSERT INTO rows VALUES ($1, $2)"
        " ON CONFLICT (id) DO UPDATE SET body = excluded.body"
    )
    applier.connection.execute("BEGIN")
    applier.replay.load(body_of(*[row(number) for number in range(1, 10_000)]), START, (0, 0))
    applier.replay.run(careful=False)
    asked = applier.replay.run(careful=False)
    assert asked.shape is not None
    applier.replay.register(asked.shape.id, Statement("put", [("new", 0), ("new", 1)]))
    with holder.transaction():
        holder.execute("UPDATE rows SET body = 'held'")
        replaying = threading.Thread(target=lambda: steps.append(applier.replay.run(careful=False)))
        replaying.start()
        while not target.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", [pid]):
            pass
        # WHEN its backend is told to go
        assert target.value("SELECT pg_terminate_backend(%s)", [pid])
        replaying.join()
    # THEN the change that waited is named, and so is the reason
    assert [(step.kind, step.sqlstate, step.ordinal) for step in steps] == [
        (_core.STEP_FAILED, "57P01", 5000)
    ]
    with pytest.raises(psycopg.OperationalError):
        applier.connection.execute("SELECT 1")


def test_a_connection_that_psycopg_closed_is_not_touched(applier: Applier) -> None:
    applier.connection.close()
    applier.replay.load(body_of(row(1)), START, (0, 0))
    with pytest.raises(_core.CoreError, match="closed"):
        applier.replay.run(careful=False)


def test_notices_of_the_server_reach_psycopgs_handlers_in_the_middle_of_replay(
    target: Database, applier: Applier
) -> None:
    target.execute(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE NOTICE 'row %', NEW.id; RETURN NEW; END $$",
        "CREATE TRIGGER tell BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION tell()",
    )
    told: list[str | None] = []
    applier.connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
    step = applier.apply_body(body_of(*[row(number) for number in range(500)]), START, (0, 0))
    assert step.kind == _core.STEP_DONE
    assert told == [f"row {number}" for number in range(500)]


def test_what_stands_at_or_before_the_reached_position_is_not_applied_again(
    target: Database, applier: Applier
) -> None:
    body = body_of(*[row(number) for number in range(1, 11)])
    step = applier.apply_body(body, START, (COMMIT_LSN, 4))
    assert (step.kind, step.changes, step.ordinal) == (_core.STEP_DONE, 6, 10)
    assert target.rows("SELECT min(id), max(id) FROM rows") == [(5, 10)]
    step = applier.apply_body(body, START, (COMMIT_LSN, 10))
    assert (step.kind, step.changes, step.commit_lsn) == (_core.STEP_DONE, 0, COMMIT_LSN)
