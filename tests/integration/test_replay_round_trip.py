"""Every kind of change of a real slot stream, replayed into a real target, gives the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from pgflo import _core

if TYPE_CHECKING:
    from tests.fix_postgres import Database
    from tests.fix_replay import OpenReplay
    from tests.fix_slot_stream import OpenStream

SCHEMA = """
CREATE TABLE plain (id int PRIMARY KEY, name text, amount numeric, at timestamptz, raw bytea);
CREATE TABLE pair (a int, b text, note text, PRIMARY KEY (a, b));
CREATE TABLE big (id int PRIMARY KEY, revision int, body text NOT NULL, extra text);
ALTER TABLE big ALTER body SET STORAGE EXTERNAL, ALTER extra SET STORAGE EXTERNAL;
CREATE TABLE journal (account int, body text);
ALTER TABLE journal REPLICA IDENTITY FULL;
ALTER TABLE journal ALTER body SET STORAGE EXTERNAL;
CREATE TABLE counted (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "odd ""name" text);
"""
CHANGES = """
INSERT INTO plain SELECT i, CASE WHEN i % 3 = 0 THEN NULL ELSE 'n' || i END, i / 7.0,
    '2026-01-01'::timestamptz + i * interval '1 s', int4send(i) FROM generate_series(1, 300) i;
INSERT INTO plain VALUES (1000, '', 'NaN', 'infinity', ''),
    (1001, E'tab\\tnew\\nline\\\\', 0, '-infinity', NULL);
UPDATE plain SET name = NULL, amount = amount * 2 WHERE id % 5 = 0;
UPDATE plain SET id = -id WHERE id % 7 = 0;
DELETE FROM plain WHERE id % 11 = 0;
INSERT INTO pair VALUES (1, 'x', 'one'), (1, 'y', 'two'), (2, 'x', NULL);
UPDATE pair SET b = b || '!' WHERE a = 1;
DELETE FROM pair WHERE a = 2;
INSERT INTO big SELECT i, 0, repeat(md5(i::text), 200), repeat(md5(i::text), 150)
    FROM generate_series(1, 20) i;
UPDATE big SET revision = 1 WHERE id <= 10;
UPDATE big SET extra = 'short' WHERE id <= 5;
UPDATE big SET id = id + 100 WHERE id > 15;
INSERT INTO journal SELECT i % 3, repeat('j' || i % 3, 3000) FROM generate_series(1, 12) i;
INSERT INTO journal VALUES (NULL, NULL);
UPDATE journal SET account = 7 WHERE account = 1;
UPDATE journal SET account = 8 WHERE account IS NULL;
DELETE FROM journal WHERE account = 2;
INSERT INTO counted ("odd ""name") VALUES ('a'), ('b');
TRUNCATE pair, counted RESTART IDENTITY;
INSERT INTO counted ("odd ""name") VALUES ('c');
SELECT pg_logical_emit_message(true, 'note', 'inside');
"""
TABLES = ("plain", "pair", "big", "journal", "counted")


def table_rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: database.rows(
            sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(table))
        )
        for table in TABLES
    }


@pytest.mark.parametrize("careful", [False, True], ids=["pipelined", "careful"])
@pytest.mark.parametrize("target_body_bytes", [1, 262144], ids=["many envelopes", "one envelope"])
def test_all_kinds_of_changes_leave_the_target_equal_to_the_source(
    source: Database,
    target: Database,
    open_stream: OpenStream,
    open_replay: OpenReplay,
    careful: bool,
    target_body_bytes: int,
) -> None:
    for database in (source, target):
        database.execute(SCHEMA)
    stream = open_stream(source)
    source.execute(*CHANGES.split(";\n"))
    applier = open_replay(target)
    for envelope in stream.envelopes(target_body_bytes=target_body_bytes):
        step = applier.apply(envelope, careful=careful)
        assert (step.kind, step.sqlstate, step.conflicts) == (_core.STEP_DONE, "", [])
        assert (step.commit_lsn, step.ordinal) == (envelope.commit_lsn, envelope.ordinal)
        assert step.changes == envelope.changes
    assert table_rows(target) == table_rows(source)
    assert applier.messages == [("note", b"inside")]
