"""Rules in a running worker: changed definitions, restarts, kills, several shards, partitions."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from pydantic import SecretStr
from structlog.testing import capture_logs
from tests.fix_changes import table_rows
from tests.fix_shards import assigned
from tests.processes import descendants

from pgflo.config.settings import SourceSettings
from pgflo.errors import CONFIG_RULES, PgfloError
from pgflo.replicator.snapshots import uncopied
from pgflo.source.catalog import resolve
from pgflo.source.connection import connect

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fix_postgres import Query
    from tests.fix_stream import Stream

USERS = "CREATE TABLE users (id int PRIMARY KEY, email text, tenant int, doc text)"
MASK = """
tables:
  users:
    - {type: transform, column: email, parameters: {type: mask}}
"""
TENANT = MASK + "    - {type: filter, column: tenant, parameters: {operator: eq, value: 1}}\n"
MASKED = sql.SQL(
    "SELECT id, left(email, 1) || repeat('*', length(email) - 2) || right(email, 1), tenant, doc"
    " FROM users WHERE {} ORDER BY id"
)


def written(tmp_path: Path, text: str, name: str = "rules.yaml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


async def make(stream: Stream, *statements: Query) -> None:
    """Run statements on both sides; the group has all tables that there are at the source."""
    for statement in statements:
        stream.changes.source.execute(statement)
        stream.target.execute(statement)
    stream.changes.frames()
    await announce(stream)


async def announce(stream: Stream) -> None:
    conn = await connect(stream.changes.source.dsn, purpose="test")
    async with conn:
        found = await resolve(conn, SourceSettings(conninfo=SecretStr(stream.changes.source.dsn)))
    for table in found.tables:
        await stream.record.put_table(uncopied(table))
    await stream.announce(tables=[table.oid for table in found.tables])


async def publish(stream: Stream, *statements: Query) -> None:
    stream.changes.source.execute(*statements)
    await stream.publish(stream.changes.envelopes(target_body_bytes=2048, max_body_bytes=65536))


async def test_a_column_that_vanishes_stops_the_worker_before_anything_of_it_passes(
    stream: Stream, tmp_path: Path
) -> None:
    await make(stream, USERS)
    rules = written(tmp_path, MASK)
    await publish(stream, "INSERT INTO users VALUES (1, 'alice', 1, 'd')")
    async with stream.worker(rules_config=rules) as task:
        await stream.caught_up(task)
    await publish(
        stream,
        "ALTER TABLE users RENAME email TO mail",
        "INSERT INTO users VALUES (2, 'bobby', 1, 'd')",
    )
    with pytest.raises(PgfloError) as caught:
        await stream.run_to_end(rules_config=rules)
    assert caught.value.kind is CONFIG_RULES
    position = f"{stream.changes.position[1]}"
    assert str(caught.value.context["position"]).endswith(f":{position}")
    assert 'rules.yaml:4:7: public.users has no column "email"; did you mean "mail"?' in (
        caught.value.detail
    )
    assert table_rows(stream.target, "users") == [("(1,a***e,1,d)",)]
    # Mended rules go on with that change.
    stream.target.execute("ALTER TABLE users RENAME email TO mail")
    await announce(stream)
    rules = written(tmp_path, MASK.replace("email", "mail"))
    async with stream.worker(rules_config=rules) as task:
        await stream.caught_up(task)
    assert table_rows(stream.target, "users") == [("(1,a***e,1,d)",), ("(2,b***y,1,d)",)]


async def test_changed_rules_hold_from_the_restart_on_and_are_told(
    stream: Stream, tmp_path: Path
) -> None:
    await make(stream, USERS)
    await publish(stream, "INSERT INTO users VALUES (1, 'alice', 1, 'd'), (2, 'bobby', 2, 'd')")
    async with stream.worker(rules_config=written(tmp_path, TENANT)) as task:
        await stream.caught_up(task)
    first = await stream.record.sinks()
    await publish(stream, "INSERT INTO users VALUES (3, 'carla', 2, 'd')")
    with capture_logs() as logs:
        async with stream.worker(rules_config=written(tmp_path, MASK)) as task:
            await stream.caught_up(task)
    second = await stream.record.sinks()
    told = [entry["changes"] for entry in logs if "other than before" in entry["event"]]
    assert told == ["public.users: filter tenant removed"]
    assert [row[0][:2] for row in table_rows(stream.target, "users")] == ["(1", "(3"]
    assert first["postgres"].rule_digests.keys() == second["postgres"].rule_digests.keys()
    assert first["postgres"].rule_digests != second["postgres"].rule_digests
    masks, filters = first["postgres"].rule_counts
    assert (filters.number, filters.kind, filters.table) == (2, "filter", "public.users")
    assert (filters.dropped_rows, masks.changed_rows) == (1, 1)
    # Counts go on with the rules that are still there.
    (masks,) = second["postgres"].rule_counts
    assert (masks.kind, masks.column, masks.changed_rows) == ("mask", "email", 2)


async def test_rules_of_a_partitioned_table_hold_for_its_leaves(
    stream: Stream, tmp_path: Path
) -> None:
    await make(
        stream,
        "CREATE TABLE users (id int PRIMARY KEY, email text) PARTITION BY RANGE (id)",
        "CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE users_2 PARTITION OF users FOR VALUES FROM (100) TO (200)",
    )
    stream.target.execute("CREATE TABLE people (key int PRIMARY KEY, email text)")
    rules = written(tmp_path, MASK)
    routing = written(
        tmp_path,
        "users: {source_table: users, destination_table: people,"
        " column_mappings: [{source: id, destination: key}]}",
        "routing.yaml",
    )
    await publish(stream, "INSERT INTO users VALUES (1, 'alice'), (101, 'bobby')")
    async with stream.worker(rules_config=rules, routing_config=routing, shards=3) as task:
        await stream.caught_up(task)
        await publish(stream, "UPDATE users SET email = 'carla' WHERE id = 101")
        await stream.caught_up(task)
        assert assigned(stream.target)["users_1"] == ["id"]
        # All leaves are truncated, so nobody else's rows are in there.
        await publish(stream, "TRUNCATE users", "INSERT INTO users VALUES (150, 'dora')")
        await stream.caught_up(task)
    assert table_rows(stream.target, "people") == [("(150,d**a)",)]
    # A partition that came since is not taken for a table without rules.
    await publish(
        stream,
        "CREATE TABLE users_3 PARTITION OF users FOR VALUES FROM (200) TO (300)",
        "INSERT INTO users VALUES (201, 'erika')",
    )
    with pytest.raises(PgfloError, match=r"may be a partition of public\.users"):
        await stream.run_to_end(rules_config=rules, routing_config=routing)


async def test_two_tables_in_one_are_spread_by_one_key_and_truncated_only_together(
    stream: Stream, tmp_path: Path
) -> None:
    await make(
        stream,
        "CREATE TABLE a (id int PRIMARY KEY, v text)",
        "CREATE TABLE b (key int PRIMARY KEY, v text)",
        "CREATE TABLE c (v text PRIMARY KEY, id int)",
    )
    stream.target.execute("CREATE TABLE every (id int PRIMARY KEY, v text)")
    into = "source_table: {}, destination_table: every"
    both = (
        f"a: {{{into.format('a')}}}\n"
        f"b: {{{into.format('b')}, column_mappings: [{{source: key, destination: id}}]}}\n"
    )
    routing = written(tmp_path, both)
    await publish(
        stream,
        "INSERT INTO a SELECT g, 'a' FROM generate_series(1, 100) g",
        "INSERT INTO b SELECT g, 'b' FROM generate_series(101, 200) g",
        "UPDATE a SET v = 'x' WHERE id % 3 = 0",
        "DELETE FROM b WHERE key % 5 = 0",
    )
    async with stream.worker(routing_config=routing, shards=4) as task:
        await stream.caught_up(task)
    expected = stream.changes.source.rows("TABLE a UNION ALL TABLE b ORDER BY 1")
    assert stream.target.rows("TABLE every ORDER BY 1") == expected
    assert (assigned(stream.target)["a"], assigned(stream.target)["b"]) == (["id"], ["key"])
    # One whose rows are told apart otherwise takes the others along to one shard.
    await publish(stream, "INSERT INTO c VALUES ('c', 300)")
    routing = written(tmp_path, f"{both}c: {{{into.format('c')}}}\n")
    async with stream.worker(routing_config=routing, shards=4) as task:
        await stream.caught_up(task)
    one, two, three = (assigned(stream.target)[name] for name in "abc")
    assert isinstance(one, int)
    assert one == two == three
    await publish(stream, "TRUNCATE a")
    with pytest.raises(PgfloError, match=r"TRUNCATE would empty public\.every"):
        await stream.run_to_end(routing_config=routing, shards=4)


async def test_writers_that_are_killed_leave_the_filtered_rows_of_the_source(
    stream: Stream, tmp_path: Path
) -> None:
    chance = random.Random(7)
    await make(stream, USERS)
    rules = written(tmp_path, TENANT)
    await publish(
        stream,
        "INSERT INTO users SELECT g, 'name' || g, g % 3, 'd' FROM generate_series(1, 300) g",
    )
    limits = {"epoch_bytes": 64 * 1024, "batch_rows": 100}
    async with stream.worker(rules_config=rules, shards=4, **limits) as task:
        for turn in range(12):
            first = chance.randrange(300)
            for statement in (
                "UPDATE users SET tenant = (tenant + 1) % 3 WHERE id BETWEEN {0} AND {0} + 60",
                "UPDATE users SET email = email || 'x' WHERE id % 7 = {0} % 7",
                "DELETE FROM users WHERE id BETWEEN {0} AND {0} + 5",
                "INSERT INTO users SELECT {0}, 'again', 1, 'd' ON CONFLICT DO NOTHING",
                "UPDATE users SET id = id + 1000 * {1} WHERE id % 50 = {0} % 50 AND id < 1000",
            ):
                await publish(stream, sql.SQL(statement).format(first, turn + 1))
            if turn % 3 == 1:
                writers = descendants(f"writer {turn % 4}")
                for writer in writers:
                    writer.kill()
        await stream.caught_up(task)
    expected = stream.changes.source.rows(MASKED.format(sql.SQL("tenant = 1")))
    assert stream.target.rows("TABLE users ORDER BY id") == expected
    assert len(expected) > 50


TWICE = """
first: {source_table: a, destination_table: a1}
second: {source_table: a, destination_table: a2}
third: {source_table: b, destination_table: b1}
fourth: {source_table: b, destination_table: b2}
"""
ONCE_MORE = "more: {source_table: a, destination_table: a3}\n"


async def test_a_route_that_is_added_during_the_copy_costs_no_other_table_its_rows(
    stream: Stream, tmp_path: Path
) -> None:
    # GIVEN two tables that go to two destinations each, half copied
    stream.changes.source.execute("CREATE TABLE a (n int)", "CREATE TABLE b (n int)")
    for name in ("a1", "a2", "a3", "b1", "b2"):
        stream.target.execute(sql.SQL("CREATE TABLE {} (n int)").format(sql.Identifier(name)))
    stream.changes.frames()
    oids = await stream.describe("a", "b", ranges=2)
    for oid in oids.values():
        await stream.publish_range(oid, 0, b"1\n2\n", 2)
    path = written(tmp_path, TWICE, "routing.yaml")
    async with stream.worker(routing_config=path) as task:
        await stream.until(lambda: stream.target.value("SELECT count(*) FROM b2") == 2, task)
        await stream.until(lambda: stream.target.value("SELECT count(*) FROM a2") == 2, task)
    # WHEN a route is added
    written(tmp_path, TWICE + ONCE_MORE, "routing.yaml")
    for oid in oids.values():
        await stream.publish_range(oid, 1, b"3\n4\n", 2)
    with capture_logs() as logs:
        async with stream.worker(routing_config=path):
            await stream.told(lambda sink: sink.phase == "streaming")
    # THEN the others have all rows, and the new destination is said to lack those of before
    for name in ("a1", "a2", "b1", "b2"):
        query = sql.SQL("SELECT n FROM {} ORDER BY n").format(sql.Identifier(name))
        assert stream.target.rows(query) == [(1,), (2,), (3,), (4,)], name
    late = [entry for entry in logs if entry["event"].startswith("routing sends rows to tables")]
    assert [entry["tables"] for entry in late] == ["public.a3"]
