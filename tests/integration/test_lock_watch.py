"""A lock or a standby holds the destination up: the worker says who, and goes on when it can."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from rich.console import Console
from structlog.testing import capture_logs
from tests.fix_changes import table_rows
from tests.fix_postgres import Database

from pgflo.status.gather import gather
from pgflo.status.show import draw
from pgflo.worker import lock_watch

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, MutableMapping

    import psycopg
    from psycopg.rows import TupleRow
    from tests.fix_postgres import PostgresFactory
    from tests.fix_stream import Stream

WAITING = "waiting for a lock at the destination"
STANDBY = "commits at the destination wait for a synchronous standby"
FREE = "the destination goes on"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_watch, "LOCK_WAIT_S", 0.2)
    monkeypatch.setattr(lock_watch, "LOOK_S", 0.05)


@asynccontextmanager
async def blocked_worker(
    stream: Stream, holder: psycopg.Connection[TupleRow], lock: sql.SQL | sql.Composed
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a worker whose next change needs what `holder` has locked; at the end it is free."""
    table = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')"
    stream.changes.source.execute(table)
    stream.target.execute(table)
    stream.changes.frames()
    async with stream.worker() as task:
        stream.changes.source.execute("UPDATE t SET v = 'b'")
        await stream.publish(stream.changes.envelopes())
        await stream.caught_up(task)
        holder.execute("BEGIN")
        holder.execute(lock)
        stream.changes.source.execute("UPDATE t SET v = 'c'")
        await stream.publish(stream.changes.envelopes())
        yield task
        holder.execute("COMMIT")
        await stream.caught_up(task)
    assert table_rows(stream.target, "t") == table_rows(stream.changes.source, "t")


async def warned(
    stream: Stream,
    task: asyncio.Task[None],
    logs: list[MutableMapping[str, object]],
    times: int = 1,
) -> list[MutableMapping[str, object]]:
    def found() -> list[MutableMapping[str, object]]:
        return [entry for entry in logs if entry["event"] == WAITING]

    await stream.until(lambda: len(found()) >= times, task)
    return found()


async def test_who_holds_the_row_is_told_in_the_log_and_in_the_status(stream: Stream) -> None:
    holder = stream.target.connect()
    holder.execute("SET application_name = 'shop'")
    lock = sql.SQL("UPDATE t SET v = 'secret 4711' /* secret */")
    with capture_logs() as logs:
        async with blocked_worker(stream, holder, lock) as task:
            warning, *_ = await warned(stream, task, logs)
            assert warning["blocked_by"] == [holder.info.backend_pid]
            assert warning["table"] == "public.t"
            who = f"{warning['who']}"
            assert "postgres (shop), idle in transaction" in who
            assert "last command UPDATE" in who
            told = await stream.told(lambda sink: bool(sink.blocked_by))
            assert f"pid {holder.info.backend_pid}" in told.blocked_by
            shown = await status(stream)
            assert "postgres waits for a lock on public.t, held by pid" in shown
        assert "secret" not in str(logs) + told.blocked_by
    # When it is over, that is told as well.
    assert FREE in [entry["event"] for entry in logs]
    assert not (await stream.record.sinks())["postgres"].blocked_by


async def status(stream: Stream) -> str:
    console = Console(width=400)
    with console.capture() as drawn:
        console.print(draw(await gather(stream.broker, stream.record, None)))
    return drawn.get()


async def test_a_standby_that_does_not_answer_is_told_in_the_log_and_in_the_status(
    stream: Stream, postgres_server: PostgresFactory
) -> None:
    table = "CREATE TABLE t (id int PRIMARY KEY)"
    stream.changes.source.execute(table)
    stream.changes.frames()
    server = postgres_server()
    server.create_database("standby")
    with closing(Database(server, "standby")) as target, capture_logs() as logs:
        target.execute(table)
        stream.target = target
        stream.as_user(target.connect().info.user)
        async with stream.worker() as task:
            await stream.caught_up(task)
            # GIVEN commits that a standby has to confirm which is away
            setting = "ALTER SYSTEM SET synchronous_standby_names = "
            target.execute(f"{setting} 'away'", "SELECT pg_reload_conf()")
            stream.changes.source.execute("INSERT INTO t VALUES (1)")
            await stream.publish(stream.changes.envelopes())
            # THEN that is told
            told = await stream.told(lambda sink: bool(sink.blocked_by))
            assert "synchronous_standby_names = 'away'" in told.blocked_by
            shown = await status(stream)
            assert "postgres waits for a synchronous standby to confirm a commit" in shown
            # AND when it is over, that is told as well
            target.execute(f"{setting} ''", "SELECT pg_reload_conf()")
            await stream.caught_up(task)
        assert table_rows(target, "t") == table_rows(stream.changes.source, "t")
    assert {STANDBY, FREE} <= {entry["event"] for entry in logs}


async def test_a_wait_that_lasts_is_told_again(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_watch, "REPEAT_S", 0.2)
    lock = sql.SQL("LOCK TABLE t IN SHARE MODE")
    with capture_logs() as logs:
        async with blocked_worker(stream, stream.target.connect(), lock) as task:
            first, second, *_ = await warned(stream, task, logs, times=2)
    assert first["table"] == second["table"] == "public.t"
    assert "last command LOCK" in f"{first['who']}"


async def test_a_session_that_may_not_be_looked_into_is_still_named(stream: Stream) -> None:
    name = f"plain_{secrets.token_hex(4)}"
    role = sql.Identifier(name)
    target = stream.target
    target.execute(
        sql.SQL("CREATE ROLE {} LOGIN").format(role),
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(target.name), role),
        sql.SQL("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {}").format(role),
    )
    try:
        holder = target.connect()
        stream.as_user(name)
        with capture_logs() as logs:
            async with blocked_worker(stream, holder, sql.SQL("UPDATE t SET v = 'x'")) as task:
                warning, *_ = await warned(stream, task, logs)
        assert warning["blocked_by"] == [holder.info.backend_pid]
        assert "pid" in f"{warning['who']}"
    finally:
        target.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(role))


async def test_a_prepared_transaction_is_named_as_one(stream: Stream) -> None:
    other = stream.target.connect()
    with capture_logs() as logs:
        lock = sql.SQL("UPDATE t SET v = 'x'; PREPARE TRANSACTION 'left behind'; BEGIN")
        async with blocked_worker(stream, other, lock) as task:
            warning, *_ = await warned(stream, task, logs)
            other.execute("COMMIT")
            other.execute("ROLLBACK PREPARED 'left behind'")
            other.execute("BEGIN")
    assert "pg_prepared_xacts" in f"{warning['who']}"
