"""Applications at the destination get in the way: what they break is applied again, once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql
from tests.fix_changes import assert_equal, bodies, on_both, table_rows
from tests.fix_pipeline import eventually

from pgflo import errors
from pgflo.config.settings import RetrySettings
from pgflo.errors import PgfloError
from pgflo.sinks.postgres.contention import ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    import psycopg
    from tests.fix_changes import Changes, Sink
    from tests.fix_postgres import Database
    from tests.fix_stream import Stream

    from pgflo.sinks.postgres.transaction import Applied

TWO_ROWS = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'a')"

BLOCKED = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name LIKE 'pgflo %' AND wait_event_type = 'Lock'"
)


class Application:
    """A session of somebody else at the destination, with a transaction open."""

    def __init__(self, target: Database, thread: ThreadPoolExecutor) -> None:
        self.target = target
        self.session: psycopg.Connection[tuple[Any, ...]] = target.connect()
        # The victim of a deadlock is who notices it: never this session.
        self.session.execute("SET deadlock_timeout = '10min'")
        self.session.execute("BEGIN")
        self._thread = thread

    def hold(self, row: int) -> None:
        """Lock a row of `t` by changing it."""
        self.session.execute("UPDATE t SET v = 'application' WHERE id = %s", [row])

    def apply(self, sink: Sink, changes: Changes) -> Future[Applied]:
        """Let the sink apply in another thread, up to where it waits for this session."""
        applying = self._thread.submit(sink.apply, changes.envelopes())
        self.blocked_pid()
        return applying

    def blocked_pid(self, other_than: int = 0) -> int:
        """Wait until a session of the sink waits for a lock; give its process id."""
        question = sql.SQL("{} AND pid <> {}").format(sql.SQL(BLOCKED), other_than)
        ((pid,),) = eventually(lambda: self.target.rows(question), "a sink that waits for a lock")
        return int(pid)

    def cancel(self, pid: int) -> None:
        """Cancel the statement of a session, as an operator would."""
        self.target.value("SELECT pg_cancel_backend(%s)", [pid])


@pytest.fixture
def application(target: Database) -> Iterator[Application]:
    with ThreadPoolExecutor(1) as thread:
        made = Application(target, thread)
        yield made
        made.session.close()


def test_a_deadlock_with_an_application_is_resolved_and_nothing_is_lost(
    changes: Changes, sink: Sink, application: Application
) -> None:
    on_both(changes, sink, f"{TWO_ROWS}; CREATE TABLE log (n int)")
    application.hold(2)
    changes.source.execute(
        "BEGIN; INSERT INTO log VALUES (1); UPDATE t SET v = 'b' WHERE id = 1;"
        "UPDATE t SET v = 'b' WHERE id = 2; INSERT INTO log VALUES (2); COMMIT"
    )
    applying = application.apply(sink, changes)
    application.hold(1)  # returns when the sink has given its locks back
    application.session.execute("COMMIT")
    applied = applying.result()
    assert_equal(changes, sink, "t", "log")
    assert applied.changes == 4
    assert applied.conflicts == {}


def test_a_deadlock_over_a_row_of_an_earlier_step_gives_the_transaction_up(
    changes: Changes, sink: Sink, application: Application
) -> None:
    # GIVEN a transaction of which one step holds a row and the next one wants another
    on_both(changes, sink, TWO_ROWS)
    application.hold(2)
    changes.source.execute(
        "BEGIN; UPDATE t SET v = repeat('b', 2000) WHERE id = 1;"
        "UPDATE t SET v = 'b' WHERE id = 2; COMMIT"
    )
    envelopes = changes.envelopes(target_body_bytes=1, max_body_bytes=1024)
    first, *rest = bodies(envelopes)

    def steps() -> None:
        transactions = sink.open()
        transactions.step([first])
        transactions.step(rest)

    assert rest
    # WHEN it deadlocks with a session that wants them the other way round
    with ThreadPoolExecutor(2) as threads:
        applying = threads.submit(steps)
        application.blocked_pid()
        holding = threads.submit(application.hold, 1)
        with pytest.raises(PgfloError, match=r"public\.t at .*40P01") as refused:
            applying.result()
        # THEN it says that it can be tried again, and that session gets through
        assert refused.value.kind is errors.SINK_CONTENDED
        assert refused.value.can_heal
        assert sink.position() == (changes.start_lsn, 0)
        sink.close()
        holding.result()
    application.session.execute("COMMIT")
    sink.apply(envelopes)
    assert_equal(changes, sink, "t")


def test_a_serialization_failure_is_no_conflict(changes: Changes, sink: Sink) -> None:
    on_both(changes, sink, "CREATE TABLE log (n int)")
    sink.target.execute(
        "CREATE SEQUENCE tries;"
        "CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF pg_catalog.nextval('public.tries') = 3 THEN"
        "  RAISE EXCEPTION 'not now' USING ERRCODE = 'serialization_failure'; END IF;"
        " RETURN NEW; END$$;"
        "CREATE TRIGGER fail_once BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION fail_once();"
        "ALTER TABLE log ENABLE ALWAYS TRIGGER fail_once"
    )
    changes.source.execute("INSERT INTO log SELECT generate_series(1, 5)")
    applied = sink.apply(changes.envelopes())
    assert_equal(changes, sink, "log")
    assert applied.changes == 5
    assert applied.conflicts == {}


def test_a_cancelled_statement_is_applied_again(
    changes: Changes, sink: Sink, application: Application
) -> None:
    on_both(changes, sink, f"{TWO_ROWS}; CREATE TABLE log (n int)")
    application.hold(2)
    changes.source.execute(
        "INSERT INTO log VALUES (1)", "UPDATE t SET v = 'b'", "INSERT INTO log VALUES (2)"
    )
    applying = application.apply(sink, changes)
    application.cancel(application.blocked_pid())
    application.session.execute("COMMIT")
    assert applying.result().changes == 4
    assert_equal(changes, sink, "t", "log")


def test_limits_and_isolation_set_for_everybody_do_not_end_a_wait(
    changes: Changes, sink: Sink, application: Application
) -> None:
    # GIVEN a destination whose sessions give up early, and see one state of the rows only
    on_both(changes, sink, TWO_ROWS)
    for setting in (
        "lock_timeout = '50ms'",
        "statement_timeout = '50ms'",
        "idle_in_transaction_session_timeout = '50ms'",
        "default_transaction_isolation = 'serializable'",
    ):
        sink.target.execute(
            sql.SQL("ALTER DATABASE {} SET {}").format(
                sql.Identifier(sink.target.name), sql.SQL(setting)
            )
        )
    # WHEN the sink waits for a row for longer, and the row is another one afterwards
    application.hold(2)
    changes.source.execute("UPDATE t SET v = 'b'")
    applying = application.apply(sink, changes)
    since = time.monotonic()
    eventually(lambda: time.monotonic() - since > 0.2, "longer than the limits")
    assert not applying.done()
    application.session.execute("COMMIT")
    # THEN it goes on as if nothing had happened
    assert applying.result().changes == 2
    assert_equal(changes, sink, "t")


async def test_a_step_that_is_given_up_is_begun_again_at_once(
    stream: Stream, application: Application
) -> None:
    # GIVEN a worker with default waits, whose statement is cancelled until it gives the step up
    stream.changes.source.execute(TWO_ROWS)
    stream.target.execute(TWO_ROWS)
    stream.changes.frames()
    application.hold(2)
    stream.changes.source.execute("UPDATE t SET v = 'b'")
    await stream.publish(stream.changes.envelopes())
    async with stream.worker(retry=RetrySettings()) as task:
        await stream.until(lambda: bool(stream.target.rows(BLOCKED)), task)
        pid = application.blocked_pid()
        since: object = None
        for _ in range(ATTEMPTS):
            await stream.until(
                lambda last=since: waiting_since(stream, pid) not in (None, last),  # type: ignore[misc]
                task,
            )
            since = waiting_since(stream, pid)
            application.cancel(pid)
        given_up = time.monotonic()
        # WHEN another life begins
        await stream.until(lambda: bool(stream.target.rows(f"{BLOCKED} AND pid <> {pid}")), task)
        seconds = time.monotonic() - given_up
        # THEN that took about the shortest wait, and everything arrives
        assert seconds < 5
        application.session.execute("COMMIT")
        await stream.caught_up(task)
    assert table_rows(stream.target, "t") == table_rows(stream.changes.source, "t")


def waiting_since(stream: Stream, pid: int) -> object:
    """Tell when a session began to wait for its lock; None while it waits for none."""
    found = stream.target.rows(
        "SELECT waitstart FROM pg_locks WHERE pid = %s AND NOT granted", [pid]
    )
    return found[0][0] if found else None
