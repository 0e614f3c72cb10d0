"""Bad input: each is refused with its kind, exit code and remedy, before anything is created."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr
from tests.fix_postgres import fresh_database
from tests.fix_replicator import Replicator

from pgflo import errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fix_postgres import Database, PostgresFactory

KEYED_BY_INDEX = """
CREATE TABLE t (id int CONSTRAINT k UNIQUE NOT NULL);
ALTER TABLE t REPLICA IDENTITY USING INDEX k
"""

PASSWORD = "s3cret-pass"  # noqa: S105 - one that must not be shown


async def refused(replicator: Replicator, **options: Any) -> PgfloError:  # noqa: ANN401
    """Start and give the refusal; nothing is left at the source or in the broker."""
    with pytest.raises(PgfloError) as told:
        await replicator.run(once=True, **options)
    assert PASSWORD not in f"{told.value} {told.value.hint} {told.value.context}"
    assert replicator.objects_at_source() == []
    assert await replicator.record() is None
    return told.value


@pytest.fixture
def role(source: Database) -> Iterator[str]:
    """Give a role that may log in and nothing else."""
    name = f"role_{secrets.token_hex(4)}"
    source.execute(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), PASSWORD)
    )
    yield name
    source.execute(
        sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)),
        sql.SQL("DROP ROLE {}").format(sql.Identifier(name)),
    )


def as_role(source: Database, role: str, password: str = PASSWORD) -> SecretStr:
    """Connect as another role."""
    return SecretStr(make_conninfo(source.dsn, user=role, password=password))


async def test_an_unreachable_source_is_exit_4(replicator: Replicator) -> None:
    error = await refused(
        replicator, conninfo=SecretStr(f"host=127.0.0.1 port=1 user=x password={PASSWORD}")
    )
    assert error.kind is errors.SOURCE_UNREACHABLE
    assert int(error.exit_code) == 4
    assert "127.0.0.1" in error.detail


async def test_an_unknown_database_is_not_tried_again(replicator: Replicator) -> None:
    conninfo = SecretStr(make_conninfo(replicator.source.dsn, dbname="nowhere"))
    error = await refused(replicator, conninfo=conninfo)
    assert error.kind is errors.SOURCE_AUTH
    assert not error.can_heal
    assert "nowhere" in error.detail


async def test_a_wrong_password_is_told_without_showing_it(
    postgres_server: PostgresFactory, nats_url: str, tmp_path: Path
) -> None:
    server = postgres_server()
    with fresh_database(server, "auth") as database:
        database.execute("CREATE ROLE someone LOGIN PASSWORD 'right'")
        hba = server.data / "pg_hba.conf"
        hba.write_text(f"host all someone 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")
        database.execute("SELECT pg_reload_conf()")
        replicator = Replicator(database, nats_url, tmp_path, "auth")
        error = await refused(replicator, conninfo=as_role(database, "someone"))
        assert error.kind is errors.SOURCE_AUTH
        assert int(error.exit_code) == 4
        assert "password" in error.hint


@pytest.mark.parametrize(
    "dsn",
    [
        f"host=localhost password={PASSWORD} nonsense",
        f"postgres://user:{PASSWORD}@x@localhost/db",
        f"postgres://user:{PASSWORD}/x@localhost/db",
    ],
)
async def test_an_unreadable_dsn_is_refused_without_showing_its_password(
    replicator: Replicator, dsn: str
) -> None:
    error = await refused(replicator, conninfo=SecretStr(dsn))
    assert int(error.exit_code) in (2, 4)


async def test_a_missing_table_is_exit_3_and_names_what_may_be_meant(
    replicator: Replicator,
) -> None:
    replicator.source.execute("CREATE TABLE users (id int PRIMARY KEY)")
    error = await refused(replicator, tables=("user,users",))
    assert error.kind is errors.TABLE_MISSING
    assert int(error.exit_code) == 3
    assert "did you mean users?" in error.detail


async def test_an_empty_schema_is_a_missing_table(replicator: Replicator) -> None:
    error = await refused(replicator)
    assert error.kind is errors.TABLE_MISSING


async def test_an_unreadable_table_list_is_exit_2(replicator: Replicator) -> None:
    error = await refused(replicator, tables=('a,"b',))
    assert int(error.exit_code) == 2


@pytest.mark.parametrize(
    ("definition", "usable"),
    [
        ("CREATE TABLE t (id int)", False),
        ("CREATE TABLE t (id int PRIMARY KEY)", True),
        ("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE)", False),
        ("CREATE TABLE t (id int NOT NULL UNIQUE)", False),
        ("CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING", False),
        ("CREATE TABLE t (id int); ALTER TABLE t REPLICA IDENTITY FULL", True),
        (KEYED_BY_INDEX, True),
    ],
)
async def test_a_table_is_refused_exactly_when_its_own_updates_would_fail(
    replicator: Replicator, definition: str, usable: bool
) -> None:
    source = replicator.source
    source.execute(sql.SQL(definition))
    if usable:
        await replicator.run(once=True)
        source.execute("INSERT INTO t VALUES (1)", "UPDATE t SET id = 2", "DELETE FROM t")
        return
    error = await refused(replicator)
    assert error.kind is errors.TABLE_WITHOUT_IDENTITY
    assert int(error.exit_code) == 3
    assert "ALTER TABLE public.t REPLICA IDENTITY FULL" in error.hint
    assert "--insert-only-tables 'public.t'" in error.hint
    # Both ways out work.
    await replicator.run(once=True, insert_only_tables=("t",))
    source.execute("INSERT INTO t VALUES (1)", "UPDATE t SET id = 2", "DELETE FROM t")


async def test_an_unlogged_table_is_refused_with_a_way_out(replicator: Replicator) -> None:
    replicator.source.execute("CREATE UNLOGGED TABLE u (id int PRIMARY KEY)")
    error = await refused(replicator)
    assert error.kind is errors.TABLE_UNSUPPORTED
    assert int(error.exit_code) == 3
    assert "SET LOGGED" in error.hint


async def test_a_view_is_no_table_when_it_is_named(replicator: Replicator) -> None:
    replicator.source.execute("CREATE TABLE t (id int PRIMARY KEY)", "CREATE VIEW v AS TABLE t")
    error = await refused(replicator, tables=("t", "v"))
    assert error.kind is errors.TABLE_UNSUPPORTED
    assert "a view" in error.detail
    await replicator.run(once=True)


async def test_a_role_without_rights_is_told_each_grant(replicator: Replicator, role: str) -> None:
    source = replicator.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    conninfo = as_role(source, role)
    error = await refused(replicator, conninfo=conninfo)
    assert error.kind is errors.SOURCE_NO_REPLICATION_RIGHT
    assert f"ALTER ROLE {role} REPLICATION" in error.hint
    name = sql.Identifier(role)
    source.execute(sql.SQL("ALTER ROLE {} REPLICATION").format(name))
    error = await refused(replicator, conninfo=conninfo)
    assert error.kind is errors.SOURCE_NO_CREATE_RIGHT
    database = sql.Identifier(source.name)
    source.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, name))
    error = await refused(replicator, conninfo=conninfo)
    assert error.kind is errors.TABLE_NO_RIGHT
    source.execute(sql.SQL("GRANT SELECT ON t TO {}").format(name))
    error = await refused(replicator, conninfo=conninfo)
    assert error.kind is errors.TABLE_NO_RIGHT
    assert "OWNER TO" in error.hint
    # With all of them it works, copy included.
    source.execute(sql.SQL("ALTER TABLE t OWNER TO {}").format(name), "INSERT INTO t VALUES (1)")
    await replicator.run(mode="copy-and-stream", once=True, conninfo=conninfo)
    assert (await replicator.read_back()).copied_integers("public.t") == [1]
    replicator.source.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        " WHERE database = current_database()"
    )


async def test_a_source_without_logical_wal_or_a_free_slot_is_exit_3(
    postgres_server: PostgresFactory, nats_url: str, tmp_path: Path
) -> None:
    server = postgres_server(wal_level="replica", max_replication_slots="1")
    with fresh_database(server, "walless") as database:
        database.execute("CREATE TABLE t (id int PRIMARY KEY)")
        replicator = Replicator(database, nats_url, tmp_path, "walless")
        error = await refused(replicator)
        assert error.kind is errors.SOURCE_WAL_LEVEL
        assert int(error.exit_code) == 3
        assert "ALTER SYSTEM SET wal_level = logical" in error.hint
        # A copy alone needs neither.
        await replicator.run(mode="copy")
        database.close()
        server.restart(settings={"wal_level": "logical"})
        database.execute("SELECT pg_create_physical_replication_slot('taken')")
        other = Replicator(database, nats_url, tmp_path, "slotless")
        error = await refused(other)
        assert error.kind is errors.SOURCE_NO_FREE_SLOT
        assert "max_replication_slots" in error.hint
        database.execute("SELECT pg_drop_replication_slot('taken')")


async def test_a_second_replicator_is_exit_8(replicator: Replicator) -> None:
    replicator.source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    process = replicator.spawn()
    from tests.fix_replicator import until

    await until(replicator.slot_lsn, "slot created")
    with pytest.raises(PgfloError) as told:
        await replicator.run(once=True)
    assert told.value.kind is errors.GROUP_RUNNING
    assert int(told.value.exit_code) == 8
    process.terminate()
    assert process.wait(30) == 0


async def test_another_mode_than_the_group_was_made_with_is_refused(
    replicator: Replicator,
) -> None:
    replicator.source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await replicator.run(once=True)
    with pytest.raises(PgfloError) as told:
        await replicator.run(mode="copy-and-stream", once=True)
    assert told.value.kind is errors.GROUP_MODE
    assert "--restart" in told.value.hint
