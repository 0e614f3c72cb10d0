"""Every sink keeps the contract: order, repeats, crashes, refusals, all operations, all types."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, LiteralString

from psycopg import sql
from tests.fix_sinks import fold, parse, source_rows, wait_for
from tests.property.own_types import CREATE_OWN_TYPES, OWN_TYPES, OWN_VALUES
from tests.property.type_values import VALUES

from pgflo import _core
from pgflo.errors import Exit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fix_sinks import AnySink
    from tests.fix_stream import Stream

TABLES = """
CREATE TABLE t (id int PRIMARY KEY, n int, doc text);
ALTER TABLE t ALTER doc SET STORAGE EXTERNAL;
CREATE TABLE "Odd näme" ("the id" int PRIMARY KEY, v text);
"""


def make(stream: Stream, statements: LiteralString, *rows: LiteralString) -> None:
    """Create tables on both sides; fill them at the source, which no change tells."""
    for database in (stream.changes.source, stream.target):
        database.execute(statements)
    stream.changes.source.execute(*rows)
    stream.changes.frames()


async def copy(stream: Stream, table: str, *, ranges: int = 1) -> None:
    """Publish the table's rows as ranges of the copy."""
    oids = await stream.describe(table, ranges=ranges)
    query = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))
    with stream.changes.source.connect().cursor().copy(query) as out:
        rows = [bytes(row) for row in out]
    size = -(-len(rows) // ranges)
    for number in range(ranges):
        some = rows[number * size : (number + 1) * size]
        await stream.publish_range(oids[table], number, b"".join(some), len(some), body_bytes=1024)


async def run(any_sink: AnySink) -> None:
    code = await asyncio.to_thread(any_sink.run)
    assert code == 0, any_sink.tail()


async def test_rows_and_changes_of_every_kind_arrive_in_order(
    any_sink: AnySink, stream: Stream
) -> None:
    # GIVEN copied rows, and changes of every kind behind them
    fill = "INSERT INTO t SELECT n, n, repeat('x', n * 400) FROM generate_series(1, 20) n"
    make(stream, TABLES, fill)
    await copy(stream, "t", ranges=3)
    source = stream.changes.source
    source.execute(
        "UPDATE t SET n = -n WHERE id % 2 = 0",  # leaves what is out of line unsent
        "UPDATE t SET id = id + 100 WHERE id > 15",
        "DELETE FROM t WHERE id = 3",
        "BEGIN; INSERT INTO t VALUES (3, NULL, E'a\"b\\n\\\\'); UPDATE t SET n = 0 WHERE id = 3;"
        " COMMIT",
        'INSERT INTO "Odd näme" VALUES (1, $$é 🐘$$)',
    )
    await stream.publish(stream.changes.envelopes(target_body_bytes=300))
    await run(any_sink)
    for table, key in (("t", "id"), ("Odd näme", "the id")):
        assert any_sink.rows(table, key) == source_rows(source, table, key)
    # WHEN it is started again, after a truncate and more
    source.execute("TRUNCATE t", "INSERT INTO t VALUES (1, 1, 'new')")
    await stream.publish(stream.changes.envelopes())
    await run(any_sink)
    # THEN it went on where it was
    assert any_sink.rows("t") == source_rows(source, "t")
    if any_sink.kind != "postgres":
        events = any_sink.events()
        assert len({event["id"] for event in events}) == len(events)
        places = [(event["commit_lsn"], event["ordinal"]) for event in events]
        as_numbers = [(int(lsn.replace("/", ""), 16), ordinal) for lsn, ordinal in places]
        assert as_numbers == sorted(as_numbers)


async def test_every_type_has_the_values_that_the_server_prints(
    any_sink: AnySink, stream: Stream
) -> None:
    names = list(VALUES)
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}, {} {}[]").format(
            sql.Identifier(name), sql.SQL(name), sql.Identifier(f"{name}[]"), sql.SQL(name)
        )
        for name in names
    )
    own = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(made))
        for name, made in OWN_TYPES.items()
    )
    for database in (stream.changes.source, stream.target):
        database.execute(
            CREATE_OWN_TYPES,
            sql.SQL("CREATE TABLE odd (id int PRIMARY KEY, {}, {})").format(columns, own),
        )
    source = stream.changes.source

    def insert(first: int, last: int) -> None:
        for number in range(first, last):
            cells = []
            for name in names:
                value = VALUES[name][number % len(VALUES[name])]
                cells.append(sql.SQL("{}::{}").format(value, sql.SQL(name)))
                both = sql.SQL("{}::text[]::{}[]").format([value, None], sql.SQL(name))
                cells.append(both)
            for name, values in OWN_VALUES.items():
                value = values[number % len(values)]
                cells.append(sql.SQL("{}::{}").format(value, sql.SQL(OWN_TYPES[name])))
            row = sql.SQL("INSERT INTO odd VALUES ({}, {})").format(
                sql.Literal(number), sql.SQL(", ").join(cells)
            )
            source.execute(row)

    for database in (source, stream.target):
        database.execute("SET timezone = 'UTC'")
    insert(0, 6)
    stream.changes.frames()
    await copy(stream, "odd")
    insert(6, 12)
    await stream.publish(stream.changes.envelopes())
    await run(any_sink)
    assert any_sink.rows("odd") == source_rows(source, "odd")


async def test_crashes_lose_and_change_nothing_whatever_number_of_shards_goes_on(
    any_sink: AnySink, stream: Stream
) -> None:
    make(stream, TABLES)
    for number in range(40):
        stream.changes.source.execute(
            sql.SQL("INSERT INTO t SELECT {} * 50 + n, n FROM generate_series(1, 50) n").format(
                sql.Literal(number)
            )
        )
    envelopes = stream.changes.envelopes(target_body_bytes=500)
    await stream.publish(envelopes)
    # WHEN the worker dies as soon as something has arrived, and so does one of more shards
    for shards in (1, 3):
        any_sink.settings = any_sink.spread(shards)
        process = any_sink.start("--epoch-bytes", "64kB")
        await asyncio.to_thread(wait_for, any_sink.seen, "a first change")
        process.kill()
        await asyncio.to_thread(process.wait)
    any_sink.settings = any_sink.spread(2)
    await run(any_sink)
    # THEN every change is there, once where that is promised, and the same each time
    assert any_sink.rows("t") == source_rows(stream.changes.source, "t")
    if any_sink.kind != "postgres":
        events = any_sink.events()
        assert (len(events) == 2000) or not any_sink.is_exact
        firsts = list({event["id"]: event for event in events}.values())
        assert fold(firsts, "t") == source_rows(stream.changes.source, "t")


async def test_what_comes_again_after_a_lost_acknowledgement_is_the_same_or_has_no_effect(
    any_sink: AnySink, stream: Stream
) -> None:
    make(stream, TABLES)
    source = stream.changes.source
    source.execute(
        "INSERT INTO t SELECT n, n FROM generate_series(1, 20) n",
        "UPDATE t SET n = n + 1 WHERE id < 10",
        "TRUNCATE t",
        "INSERT INTO t SELECT n, n FROM generate_series(1, 20) n",
        "UPDATE t SET n = n + 1 WHERE id < 10",
    )
    await stream.publish(stream.changes.envelopes(target_body_bytes=300))
    await run(any_sink)
    before = [] if any_sink.kind == "postgres" else any_sink.events()
    # WHEN the record stands where it stood before the first acknowledgement
    known = (await stream.record.sinks())[any_sink.kind]
    start_lsn = stream.group.start_lsn
    former = replace(known, commit_lsn=start_lsn, ordinal=0, end_lsn=start_lsn)
    await stream.record.put_sink(former)
    await run(any_sink)
    # THEN whoever keeps no position of its own brings all of it once more, equal by id
    assert any_sink.rows("t") == source_rows(source, "t")
    if any_sink.kind != "postgres":
        assert len(before) == 59
        assert any_sink.events() == (before if any_sink.is_exact else before + before)


async def test_what_is_refused_stops_it_with_table_place_and_command_and_is_where_it_goes_on(
    any_sink: AnySink, stream: Stream
) -> None:
    make(stream, TABLES)
    source = stream.changes.source
    source.execute("INSERT INTO t SELECT n, n, 'secret' FROM generate_series(1, 5) n")
    await stream.publish(stream.changes.envelopes())
    # WHEN what comes is refused
    with any_sink.refusing():
        assert await asyncio.to_thread(any_sink.run) == Exit.SINK, any_sink.tail()
    # THEN it says so by the place of the first change, and of the row nothing
    told = any_sink.failure()
    assert told["table"] == "public.t"
    lsn, _, ordinal = told["position"].rpartition(":")
    assert (_core.lsn_parse(lsn), ordinal) == (stream.changes.position[0], "1")
    assert "`pgflo worker" in told["hint"]
    assert "secret" not in any_sink.log.read_text()
    # THEN with nothing in the way it goes on there
    await run(any_sink)
    assert any_sink.rows("t") == source_rows(source, "t")
    if any_sink.kind != "postgres":
        events = any_sink.events()
        assert len(events) == 5
        assert told["position"] == f"{events[0]['commit_lsn']}:{events[0]['ordinal']}"


async def test_a_value_of_50_megabytes_arrives(any_sink: AnySink, stream: Stream) -> None:
    make(stream, TABLES)
    insert = """INSERT INTO "Odd näme" VALUES (1, repeat('0123456789', 5000000))"""
    stream.changes.source.execute(insert)
    await stream.publish(stream.changes.envelopes())
    await run(any_sink)
    wanted = {"the id": 1, "v": "0123456789" * 5_000_000}
    assert list(any_sink.rows("Odd näme", "the id").values()) == [wanted]


RULES = """
tables:
  users:
    - {type: transform, column: email, parameters: {type: mask}}
    - {type: filter, column: age, parameters: {operator: gte, value: 18}}
    - {type: exclude_column, column: ssn}
"""
ROUTING = """
people: {source_table: users, destination_table: people,
  column_mappings: [{source: email, destination: mail}]}
again: {source_table: users, destination_table: again}
"""


async def test_rules_and_routes_hold_for_copied_rows_and_for_changes(
    any_sink: AnySink, stream: Stream, tmp_path: Path
) -> None:
    source = stream.changes.source
    source.execute(
        "CREATE TABLE users (id int PRIMARY KEY, email text, age int, ssn text)",
        "ALTER TABLE users REPLICA IDENTITY FULL",
        "INSERT INTO users SELECT n, 'mail' || n, n, 'secret' FROM generate_series(1, 40) n",
    )
    stream.target.execute(
        "CREATE TABLE people (id int PRIMARY KEY, mail text, age int)",
        "CREATE TABLE again (id int PRIMARY KEY, email text, age int)",
    )
    stream.changes.frames()
    for name, text in (("rules", RULES), ("routing", ROUTING)):
        (tmp_path / f"{name}.yaml").write_text(text)
        any_sink.flags += [f"--{name}-config", str(tmp_path / f"{name}.yaml")]
    await copy(stream, "users", ranges=2)
    source.execute(
        "UPDATE users SET age = age + 1 WHERE id < 30",  # 17 comes in
        "UPDATE users SET age = 1 WHERE id = 30",  # 30 goes out
        "DELETE FROM users WHERE id = 31",
    )
    await stream.publish(stream.changes.envelopes())
    await run(any_sink)
    wanted = sql.SQL(
        "SELECT to_jsonb(r)::text FROM (SELECT id, left(email, 1) ||"
        " repeat('*', length(email) - 2) || right(email, 1) AS {}, age FROM users"
        " WHERE age >= 18) r"
    )
    for table, column in (("people", "mail"), ("again", "email")):
        rows = [parse(text) for (text,) in source.rows(wanted.format(sql.Identifier(column)))]
        found = list(any_sink.rows(table).values())
        assert sorted(found, key=lambda row: int(row["id"])) == sorted(
            rows, key=lambda row: int(row["id"])
        )
    if any_sink.kind != "postgres":
        events = any_sink.events()
        assert len({event["id"] for event in events}) == len(events)
        assert b"secret" not in b"".join(str(event).encode() for event in events)
