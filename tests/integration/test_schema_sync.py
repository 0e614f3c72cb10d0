"""`--target-sync-schema`: the destination's tables become the source's, and nothing there is lost.

pg_dump is the oracle: what it prints of both sides must be the same.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import uuid
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from tests.fix_pipeline import eventually, sorted_dump_digest

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.schema import build
from pgflo.schema.build import AfterRows
from pgflo.schema.sync import Wanted, sync_before_rows
from pgflo.sinks.postgres.connection import Destination

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_pipeline import Pipeline
    from tests.fix_postgres import Database

SCHEMA = (Path(__file__).resolve().parent.parent / "data" / "schema.sql").read_text("utf-8")
TABLES = 'public.*,"Odd Schema".*'
SYNC = "--target-sync-schema"
NO_STATEMENT = re.compile(r"^(?:\\(?:un)?restrict|--) .*\n", re.MULTILINE)
LEFT_OUT = [
    "ALTER TABLE ONLY public.refers ADD CONSTRAINT refers_o_fkey",
    "CREATE POLICY known ON public.refers USING ((id IN ( SELECT o",
]
"""What refers to tables that were not asked for, as it begins."""


def dumped(database: Database) -> list[str]:
    """Give what pg_dump prints of the schemas that are brought, statement by statement."""
    printed = subprocess.run(
        [
            str(database.bin_dir / "pg_dump"),
            *("--schema-only", "--no-owner", "--no-privileges", "--no-publications"),
            *("--exclude-schema=pgflo", "--exclude-schema=elsewhere", database.dsn),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    pieces = NO_STATEMENT.sub("", printed).split("\n\n")
    return [" ".join(piece.strip("\n-").split()) for piece in pieces]


def assert_schema_is_equal(source: Database, target: Database) -> None:
    """Both sides print the same, but for what is left out."""
    ours, theirs = dumped(source), dumped(target)
    assert [statement for statement in theirs if statement not in ours] == []
    lacking = sorted(statement for statement in ours if statement not in theirs)
    assert len(lacking) == len(LEFT_OUT)
    assert all(map(str.startswith, lacking, LEFT_OUT))


class Sides:
    """Both databases without anything between them: what is made before the rows."""

    def __init__(self, source: Database, target: Database) -> None:
        self.source, self.target = source, target
        self.to = Destination(target.dsn, "g", "postgres", uuid.uuid4())
        source.execute(SCHEMA)

    def wanted(self) -> Wanted:
        """Give all tables that are brought, as a new incarnation."""
        rows = self.source.rows(
            "SELECT c.oid::int8, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n"
            " ON n.oid = c.relnamespace WHERE relkind = 'r' AND nspname IN ('public', 'Odd Schema')"
        )
        return Wanted(
            self.source.dsn, uuid.uuid4(), {oid: (schema, name) for oid, schema, name in rows}
        )

    def done(self) -> dict[str, object]:
        """Give when each part was made."""
        found = self.target.rows(
            "SELECT label, done_at FROM pgflo.schema_parts WHERE done_at IS NOT NULL"
        )
        return dict(found)


@pytest.fixture
def sides(source: Database, target: Database) -> Sides:
    """Give a source with all kinds of things, and an empty destination."""
    return Sides(source, target)


@pytest.fixture
def plain_roles(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Give a role that may read the group's tables alone, and one that owns the destination."""
    name = f"plain_{secrets.token_hex(4)}"
    role, source, target = sql.Identifier(name), pipeline.source, pipeline.target
    source.execute(SCHEMA)
    for database in (source, target):
        database.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    source.execute(
        sql.SQL('GRANT SELECT ON ALL TABLES IN SCHEMA public, "Odd Schema" TO {}').format(role),
        sql.SQL('GRANT USAGE ON SCHEMA "Odd Schema" TO {}').format(role),
    )
    target.execute(
        sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(target.name), role),
        sql.SQL("ALTER SCHEMA public OWNER TO {}").format(role),
    )
    yield source.server.dsn(source.name, name), target.server.dsn(target.name, name)
    pipeline.stop_all()
    target.execute(
        sql.SQL("ALTER DATABASE {} OWNER TO postgres").format(sql.Identifier(target.name))
    )
    for database in (source, target):
        database.execute(
            sql.SQL("DROP OWNED BY {}").format(role), sql.SQL("DROP ROLE {}").format(role)
        )


def test_plain_roles_bring_what_pg_dump_prints_of_the_source(
    pipeline: Pipeline, plain_roles: tuple[str, str]
) -> None:
    # WHEN a group is copied into an empty database by roles that are no superusers
    source_dsn, target_dsn = plain_roles
    pipeline.replicate("--tables", TABLES)
    worker = pipeline.worker(SYNC, "--source", source_dsn, "--target", target_dsn)
    pipeline.wait_caught_up()
    # THEN both sides print the same, but for what refers to tables that were not asked for
    assert_schema_is_equal(pipeline.source, pipeline.target)
    for place in ("foreign key refers_o_fkey", "policy known"):
        assert f"{place} refers to elsewhere.outside" in worker.tail(100_000)
    for schema, name in pipeline.tables():
        if schema != "elsewhere":
            digests = [
                sorted_dump_digest(dsn, schema, name)
                for dsn in (pipeline.source_dsn, pipeline.target_dsn)
            ]
            assert digests[0] == digests[1], f"{schema}.{name}"
    assert (worker.stop(), "rows" in worker.tail()) == (0, True)


def test_workers_that_end_while_indexes_are_made_make_each_once(pipeline: Pipeline) -> None:
    # GIVEN a worker that has made some of the indexes, and waits for a lock with another
    source, target = pipeline.source, pipeline.target
    source.execute(SCHEMA)
    pipeline.replicate("--tables", TABLES)
    first = pipeline.worker(SYNC, "--copy-writers", "2")
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
    with target.connect() as blocker:
        eventually(lambda: target.value("SELECT to_regclass('public.leaves')"), "tables")
        blocker.execute("BEGIN; LOCK TABLE leaves IN ACCESS SHARE MODE")
        eventually(lambda: target.value(waiting, ["public.leaves"]), "a part that waits")
        assert first.stop() == 0  # it takes back its statement, and does not wait
        assert target.value(waiting, ["public.leaves"]) == 0
        second = pipeline.worker(SYNC, "--copy-writers", "2")
        eventually(lambda: target.value(waiting, ["public.leaves"]), "a part that waits again")
        second.kill()
    made = dict(
        target.rows("SELECT label, done_at FROM pgflo.schema_parts WHERE done_at IS NOT NULL")
    )
    left = target.value("SELECT count(*) FROM pgflo.schema_parts WHERE done_at IS NULL")
    assert left
    # WHEN one comes that does not bring the schema, and another that does but has no source
    without = pipeline.worker()
    pipeline.wait_caught_up()
    assert f'"parts":{left}' in without.tail(100_000)
    assert without.stop() == 0
    pipeline.worker(SYNC, "--source", "host=127.0.0.1 port=1 dbname=gone")
    pipeline.wait_caught_up()
    # THEN the first has told what is missing, and the second has made it, but no part twice
    assert_schema_is_equal(source, target)
    now = dict(target.rows("SELECT label, done_at FROM pgflo.schema_parts"))
    assert {label: now[label] for label in made} == made
    assert len(now) == len(made) + left


async def test_what_is_there_is_left_as_it_is_and_differences_are_all_named(sides: Sides) -> None:
    # GIVEN a destination that has some of it already, in part another way
    target = sides.target
    await sync_before_rows(sides.to, sides.wanted())
    target.execute(
        "DROP TABLE leaves; DROP FUNCTION types.touch",
        "ALTER TABLE nodes ALTER id TYPE bigint, ADD extra text",
        'ALTER TABLE "Odd Schema"."Odd; Name" ALTER "Id" DROP DEFAULT',
        "CREATE OR REPLACE FUNCTION types.next_no() RETURNS int LANGUAGE sql AS 'SELECT 43'",
        "ALTER TABLE customers ADD PRIMARY KEY (id, email)",
        "ALTER TYPE types.mood ADD VALUE 'angry'",
        "ALTER TABLE parts DETACH PARTITION parts_rest",
        "COMMENT ON TABLE customers IS 'mine'",
    )
    before = dumped(target)
    # WHEN it is to be brought for another incarnation
    with pytest.raises(PgfloError) as refused:
        await sync_before_rows(sides.to, sides.wanted())
    # THEN every difference is named, and nothing is changed
    assert refused.value.kind is errors.SCHEMA_DIFFERS
    for difference in (
        "TABLE public nodes has at the source `id integer NOT NULL`, at the destination `id bigint",
        "`extra text`",
        "DEFAULT Odd Schema Odd; Name Id is missing",
        "FUNCTION types next_no() is another one",
        "CONSTRAINT public customers customers_pkey has at the source",
        "TYPE types mood has at the destination `'angry'`",
        "TABLE ATTACH public parts_rest is missing",
    ):
        assert difference in refused.value.detail
    assert refused.value.detail.count(";") == 6
    assert dumped(target) == before
    # AND when they are mended, the rest is made beside what is there
    target.execute(
        'DROP TABLE nodes, parts, parts_rest, customers, "Odd Schema"."Odd; Name"',
        "DROP FUNCTION types.next_no; DROP TYPE types.pair, types.mood",
    )
    await sync_before_rows(sides.to, sides.wanted())
    assert set(dumped(target)) <= set(dumped(sides.source))


async def test_tables_that_are_half_made_are_finished_by_the_next_start(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN something in the way of what has to be made in the middle
    monkeypatch.setattr(build, "PARTS_A_COMMIT", 1)
    sides.target.execute("CREATE TABLE leaves_in_the_way (id int)", "CREATE SCHEMA types")
    sides.target.execute("CREATE TABLE types.shared (id int)")
    wanted = sides.wanted()
    with pytest.raises(PgfloError, match='SEQUENCE types shared: relation "shared"') as refused:
        await sync_before_rows(sides.to, wanted)
    assert refused.value.kind is errors.SCHEMA_REFUSED
    made = sides.done()
    assert made
    # WHEN it is removed
    sides.target.execute("DROP TABLE types.shared, leaves_in_the_way")
    # THEN the same incarnation goes on there, and a new one does as well
    await sync_before_rows(sides.to, wanted)
    assert made.items() <= sides.done().items()
    once = dumped(sides.target)
    assert set(once) <= set(dumped(sides.source))
    await sync_before_rows(sides.to, sides.wanted())
    assert dumped(sides.target) == once


async def test_chinook_is_the_same_on_both_sides(source: Database, target: Database) -> None:
    # GIVEN tables with foreign keys all over
    text = files("pgflo.demo").joinpath("chinook.sql").read_text(encoding="utf-8")
    source.execute(re.sub(r"(?im)^(DROP DATABASE|CREATE DATABASE|\\c) .*$", "", text))
    to = Destination(target.dsn, "g", "postgres", uuid.uuid4())
    rows = source.rows(
        "SELECT oid::int8, relname FROM pg_class WHERE relkind = 'r' AND oid > 16384"
    )
    tables = {oid: ("public", name) for oid, name in rows}
    told = []
    # WHEN they are made without rows, over more connections than there are cores
    await sync_before_rows(to, Wanted(source.dsn, uuid.uuid4(), tables))
    after_rows = AfterRows(to, 6, lambda total, done: told.append((total, done)))
    assert await after_rows.run(is_one_state=True, may_differ=False) == 0
    # THEN pg_dump sees no difference, and every part was told
    assert dumped(target) == dumped(source)
    assert told[-1][0] == told[-1][1] == len(told) - 1


async def test_another_database_than_the_groups_is_refused(sides: Sides) -> None:
    wanted = sides.wanted()
    other = Wanted(sides.target.dsn, wanted.incarnation, wanted.tables)
    with pytest.raises(PgfloError, match=r"has not the group's table .*public\.nodes") as refused:
        await sync_before_rows(sides.to, other)
    assert refused.value.kind is errors.SCHEMA_OTHER_SOURCE
