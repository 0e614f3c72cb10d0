"""A destination that cannot take a change: the worker stops or waits there, tells why, goes on."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql
from structlog.testing import capture_logs
from tests.fix_changes import table_rows
from tests.fix_postgres import fresh_database

from pgflo import errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_pipeline import Pipeline
    from tests.fix_postgres import Database, PostgresFactory, Query
    from tests.fix_stream import Stream

    from pgflo.errors import Kind

TABLE = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, '10'), (2, '20')"

SENSITIVE = "4711secret"
"""Stands in every row that is refused, and must stand in no log."""

NEW_ROW = sql.SQL("INSERT INTO t VALUES (4, {})").format(SENSITIVE)


@dataclass(frozen=True)
class Case:
    """How a destination is spoiled, what is told of it, and how it is mended."""

    spoil: Query
    words: tuple[str, ...]
    hint: str
    mend: Query
    kind: Kind = errors.SINK_REFUSED
    at_source: Query | None = None
    """What happens at the source besides the new row."""
    context: dict[str, str] = field(default_factory=dict)


CASES = {
    "a column is missing": Case(
        "SELECT",
        ("lacks column extra",),
        "ADD COLUMN",
        "ALTER TABLE t ADD COLUMN extra int",
        errors.SINK_COLUMN_MISSING,
        at_source="ALTER TABLE t ADD COLUMN extra int",
    ),
    "a column was dropped": Case(
        "ALTER TABLE t DROP COLUMN v",
        ("public.t",),
        "ADD COLUMN",
        "ALTER TABLE t ADD COLUMN v text; UPDATE t SET v = id * 100",
        errors.SINK_COLUMN_MISSING,
    ),
    "the table is gone": Case(
        "ALTER TABLE t RENAME TO elsewhere",
        ("public.t",),
        "pg_dump --schema-only",
        "ALTER TABLE elsewhere RENAME TO t",
        errors.SINK_TABLE_MISSING,
    ),
    "a type is another one": Case(
        "ALTER TABLE t ALTER COLUMN v TYPE int USING v::int",
        ("InvalidTextRepresentation", "of another type than at the source: v"),
        "`ALTER TABLE public.t ALTER COLUMN v TYPE",
        "ALTER TABLE t ALTER COLUMN v TYPE text",
    ),
    "a type is too short": Case(
        "ALTER TABLE t ALTER COLUMN v TYPE varchar(5)",
        ("StringDataRightTruncation", "of another type than at the source: v"),
        "`ALTER TABLE public.t ALTER COLUMN v TYPE",
        "ALTER TABLE t ALTER COLUMN v TYPE text",
    ),
    "a column must not be NULL and the source lacks it": Case(
        "ALTER TABLE t ADD COLUMN must int NOT NULL DEFAULT 1;"
        "ALTER TABLE t ALTER must DROP DEFAULT",
        ("NotNullViolation", "column must (which the source does not have)"),
        "`ALTER TABLE public.t ALTER COLUMN must DROP NOT NULL`",
        "ALTER TABLE t DROP COLUMN must",
        context={"column": "must"},
    ),
    "a column must not be NULL": Case(
        "ALTER TABLE t ALTER v SET NOT NULL",
        ("NotNullViolation", "column v (NULL at the source)"),
        "`ALTER TABLE public.t ALTER COLUMN v DROP NOT NULL`",
        "ALTER TABLE t ALTER v DROP NOT NULL",
        at_source="INSERT INTO t VALUES (3, NULL)",
        context={"column": "v"},
    ),
    "a row fails a check": Case(
        "ALTER TABLE t ADD CONSTRAINT short CHECK (length(v) < 5)",
        ("CheckViolation", "constraint short"),
        "start `pgflo worker` again",
        "ALTER TABLE t DROP CONSTRAINT short",
        context={"constraint": "short"},
    ),
    "a value is there already": Case(
        "ALTER TABLE t ADD CONSTRAINT one_v UNIQUE (v);INSERT INTO t VALUES (99, '4711secret')",
        ("UniqueViolation", "constraint one_v"),
        "start `pgflo worker` again",
        "DELETE FROM t WHERE id = 99; ALTER TABLE t DROP CONSTRAINT one_v",
        context={"constraint": "one_v"},
    ),
    "a range is taken": Case(
        "CREATE EXTENSION btree_gist;"
        "ALTER TABLE t ADD CONSTRAINT apart EXCLUDE USING gist (v WITH =);"
        "INSERT INTO t VALUES (99, '4711secret')",
        ("ExclusionViolation", "constraint apart"),
        "start `pgflo worker` again",
        "DELETE FROM t WHERE id = 99; ALTER TABLE t DROP CONSTRAINT apart",
        context={"constraint": "apart"},
    ),
    "a trigger objects": Case(
        "CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'not %', NEW.v; END$$;"
        "CREATE TRIGGER object BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION object();"
        "ALTER TABLE t ENABLE ALWAYS TRIGGER object",
        ("P0001", "RaiseException"),
        "start `pgflo worker` again",
        "DROP TRIGGER object ON t",
    ),
    "a view stands in its place": Case(
        "ALTER TABLE t RENAME TO elsewhere; CREATE VIEW t AS SELECT id, v FROM elsewhere OFFSET 0",
        ("public.t",),
        "pg_dump --schema-only",
        "DROP VIEW t; ALTER TABLE elsewhere RENAME TO t",
        errors.SINK_TABLE_MISSING,
    ),
}


def both(stream: Stream, statements: Query) -> None:
    stream.changes.source.execute(statements)
    stream.target.execute(statements)
    stream.changes.frames()


def equal(stream: Stream, table: str = "t") -> bool:
    return table_rows(stream.target, table) == table_rows(stream.changes.source, table)


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "before it starts"])
@pytest.mark.parametrize("name", CASES)
async def test_it_stops_at_the_change_and_goes_on_there_once_mended(
    stream: Stream, name: str, capfd: pytest.CaptureFixture[str], *, running: bool
) -> None:
    # GIVEN a destination that has taken changes, and is spoiled then
    case = CASES[name]
    both(stream, TABLE)
    stream.changes.source.execute("UPDATE t SET v = v || '0'")
    await stream.publish(stream.changes.envelopes())
    caught_up = stream.changes.position

    async def meet_it() -> None:
        async with stream.worker() as task:
            await stream.caught_up(task)
            if running:
                await spoil()
                await task
        await spoil()
        await stream.run_to_end()

    async def spoil() -> None:
        stream.target.execute(case.spoil)
        if case.at_source is not None:
            stream.changes.source.execute(case.at_source)
        stream.changes.source.execute(NEW_ROW)
        await stream.publish(stream.changes.envelopes())

    # WHEN a change comes that it cannot take
    with pytest.raises(PgfloError) as refused:
        await meet_it()
    # THEN the worker stops with exit 5 and says what is to be done, without a value
    error = refused.value
    assert error.kind is case.kind
    assert error.exit_code == errors.Exit.SINK
    assert not error.can_heal
    assert "public.t" in error.detail
    assert all(word in error.detail for word in case.words), error.detail
    assert case.hint in error.hint
    assert error.context["table"] == "public.t"
    assert str(error.context["position"]) in error.detail
    assert case.context.items() <= error.context.items()
    said = capfd.readouterr()
    assert SENSITIVE not in f"{error} {error.hint} {error.context} {said.out} {said.err}"
    # AND the position stays where it was, until the cause is mended
    assert stream.position() == caught_up
    stream.target.execute(case.mend)
    async with stream.worker() as task:
        await stream.caught_up(task)
    assert equal(stream)


async def test_a_right_that_is_taken_away_stops_it_until_it_is_given_back(
    stream: Stream, target: Database
) -> None:
    name = f"plain_{secrets.token_hex(4)}"
    role = sql.Identifier(name)
    target.execute(
        sql.SQL("CREATE ROLE {} LOGIN").format(role),
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(target.name), role),
        sql.SQL("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {}").format(role),
    )
    try:
        both(stream, TABLE)
        as_plain = {"target": target.server.dsn(target.name, name)}

        async def until_it_stops() -> None:
            async with stream.worker(**as_plain) as task:
                stream.changes.source.execute("INSERT INTO t VALUES (3, 'before')")
                await stream.publish(stream.changes.envelopes())
                await stream.caught_up(task)
                target.execute(sql.SQL("REVOKE UPDATE, INSERT ON t FROM {}").format(role))
                stream.changes.source.execute(sql.SQL("UPDATE t SET v = {}").format(SENSITIVE))
                await stream.publish(stream.changes.envelopes())
                await task

        with pytest.raises(PgfloError, match=r"public\.t at .*42501") as refused:
            await until_it_stops()
        assert refused.value.kind is errors.SINK_PRIVILEGE
        assert refused.value.exit_code == errors.Exit.SINK
        assert "GRANT" in refused.value.hint
        assert SENSITIVE not in f"{refused.value} {refused.value.context}"
        assert not equal(stream)
        target.execute(sql.SQL("GRANT UPDATE, INSERT ON t TO {}").format(role))
        async with stream.worker(**as_plain) as task:
            await stream.caught_up(task)
        assert equal(stream)
    finally:
        target.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(role))


async def test_sessions_that_may_only_read_are_waited_out(stream: Stream, target: Database) -> None:
    both(stream, TABLE)
    named = sql.Identifier(target.name)
    async with stream.worker() as task:
        stream.changes.source.execute("INSERT INTO t VALUES (3, 'before')")
        await stream.publish(stream.changes.envelopes())
        await stream.caught_up(task)
        with capture_logs() as logs:
            target.execute(
                sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(named)
            )
            target.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'pgflo %' AND datname = current_database()"
            )
            stream.changes.source.execute("UPDATE t SET v = 'after'")
            await stream.publish(stream.changes.envelopes())
            await stream.until(lambda: tells(logs, "does not accept writes"), task)
        target.execute(
            sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(named)
        )
        await stream.caught_up(task)
    assert equal(stream)


def tells(logs: list[Any], words: str) -> bool:
    """Whether a warning of the worker has these words, and says what can be done."""
    return any(words in str(entry.get("cause")) and entry.get("hint") for entry in logs)


@pytest.fixture
def own_target(
    stream: Stream, postgres_server: PostgresFactory, target: Database
) -> Iterator[Database]:
    """Let the worker write to a server that the test may stop, fill and lock."""
    with fresh_database(postgres_server(fsync="off"), "own") as database:
        stream.target = database
        yield database
        stream.target = target


async def test_a_destination_that_is_in_recovery_is_waited_out(
    stream: Stream, own_target: Database
) -> None:
    both(stream, TABLE)
    to_it = {"target": own_target.dsn}
    stream.changes.source.execute("INSERT INTO t VALUES (3, 'before')")
    await stream.publish(stream.changes.envelopes())
    async with stream.worker(**to_it) as task:
        await stream.caught_up(task)
        # WHEN the destination turns into a standby
        with capture_logs() as logs:
            own_target.close()
            (own_target.server.data / "standby.signal").touch()
            own_target.server.restart()
            stream.changes.source.execute("UPDATE t SET v = 'after'")
            await stream.publish(stream.changes.envelopes())
            await stream.until(lambda: tells(logs, "does not accept writes"), task)
        # THEN the worker goes on when it is promoted
        assert own_target.value("SELECT pg_is_in_recovery()")
        own_target.execute("SELECT pg_promote()")
        await stream.caught_up(task)
    assert equal(stream)


async def test_a_standby_is_refused_at_the_start(stream: Stream, own_target: Database) -> None:
    both(stream, TABLE)
    own_target.close()
    (own_target.server.data / "standby.signal").touch()
    own_target.server.restart()
    with pytest.raises(PgfloError) as refused:
        await stream.run_to_end(target=own_target.dsn)
    assert refused.value.kind is errors.SINK_READ_ONLY
    assert refused.value.exit_code == errors.Exit.SINK
    assert "target_session_attrs" in refused.value.hint
    own_target.execute("SELECT pg_promote()")


FULL_AT_BYTES = 24 * 1024 * 1024 + 4096
"""Larger than a segment of WAL, and not a whole number of pages: the page at the limit is written
in part, which is how a server meets the end of its disk."""


@contextmanager
def small_disk(database: Database) -> Iterator[None]:
    """Let no file of sessions that begin from now on grow larger."""
    limit_files(database, str(FULL_AT_BYTES))
    try:
        yield
    finally:
        limit_files(database, "unlimited")


def limit_files(database: Database, limit: str) -> None:
    """Set the soft limit for sessions to come; the server does it, since it is its own user."""
    pid = (database.server.data / "postmaster.pid").read_text().split()[0]
    command = sql.Literal(f"prlimit --pid {pid} --fsize={limit}:")
    # No row: the command reads none, and may end before one could be written to it.
    database.execute(sql.SQL("COPY (SELECT WHERE false) TO PROGRAM {}").format(command))


async def test_a_full_disk_is_waited_out(stream: Stream, own_target: Database) -> None:
    both(stream, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    stream.changes.source.execute("INSERT INTO t VALUES (0, 'before')")
    await stream.publish(stream.changes.envelopes())
    before = stream.changes.position
    with small_disk(own_target):
        async with stream.worker(target=own_target.dsn) as task:
            await stream.caught_up(task)
            with capture_logs() as logs:
                stream.changes.source.execute(
                    "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 30000) g"
                )
                await stream.publish(stream.changes.envelopes())
                await stream.until(lambda: tells(logs, "53100"), task)
            assert any("public.t at " in str(entry.get("cause")) for entry in logs)
            assert stream.position() == before
            # WHEN there is room again
            limit_files(own_target, "unlimited")
            # THEN it goes on by itself
            await stream.caught_up(task)
    assert equal(stream)


def test_the_command_ends_with_its_exit_code_and_the_next_step(pipeline: Pipeline) -> None:
    pipeline.source.execute(TABLE)
    pipeline.copy_schema()
    pipeline.target.execute("ALTER TABLE t ADD CONSTRAINT short CHECK (length(v) < 5)")
    pipeline.replicate()
    worker = pipeline.worker()
    pipeline.wait_caught_up()
    before = pipeline.applied_lsn()
    pipeline.source.execute(NEW_ROW)
    assert worker.wait() == errors.Exit.SINK
    said = worker.tail()
    assert "constraint short" in said
    assert "public.t at " in said
    assert "start `pgflo worker` again" in said
    assert SENSITIVE not in said
    assert pipeline.applied_lsn() == before
    pipeline.commands.remove(worker)
    pipeline.target.execute("ALTER TABLE t DROP CONSTRAINT short")
    pipeline.worker()
    pipeline.wait_caught_up()
    pipeline.assert_identical()
