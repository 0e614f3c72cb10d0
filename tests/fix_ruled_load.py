"""Fixture `ruled`: an application whose rows move in and out of what rules let through.

Neighbours: `fix_load`, whose writers these are. Downstream: chaos under rules. `people` has the
default replica identity, `orders` FULL and documents out of line, `journal` FULL and no key: there
a row that arrives twice stays for ever.
Invariant: `EXPECTED` says in SQL what RULES and ROUTING say in YAML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from tests.fix_load import Load, seed_of_choices

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    import psycopg
    from tests.fix_pipeline import Pipeline

SCHEMA = """
CREATE TABLE people (id int PRIMARY KEY, email text, phone varchar(20), age int, ssn text);
CREATE TABLE orders (id int PRIMARY KEY, region text, amount numeric(12, 2), note text, doc text);
ALTER TABLE orders ALTER doc SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE TABLE journal (account int NOT NULL, kind text NOT NULL, who text, at timestamptz NOT NULL);
ALTER TABLE journal REPLICA IDENTITY FULL;
"""
DESTINATIONS = """
ALTER TABLE people DROP ssn;
CREATE TABLE orders_eu (LIKE orders INCLUDING ALL);
CREATE TABLE orders_other (LIKE orders INCLUDING ALL);
DROP TABLE orders;
"""
ROWS = """
INSERT INTO people SELECT i, 'name' || i, CASE WHEN i % 5 > 0 THEN 5550000000 + i END,
    CASE WHEN i % 11 > 0 THEN i % 40 END, 's' || i FROM generate_series(1, {rows}) i;
INSERT INTO orders SELECT i, (ARRAY['eu', 'us', NULL])[i % 3 + 1], i % 50 - 10, 'note ' || i,
    repeat(md5(i::text), 100) FROM generate_series(1, {rows} / 10) i;
INSERT INTO journal SELECT i % 100, (ARRAY['visit', 'visa', 'call'])[i % 3 + 1], 'who' || i % 7,
    '2026-01-01' FROM generate_series(1, {rows}) i;
"""
RULES = r"""
tables:
  people:
    - {type: filter, column: age, parameters: {operator: gte, value: 18}}
    - {type: transform, column: email, parameters: {type: mask}}
    - type: transform
      column: phone
      parameters: {type: regex, pattern: '^(\d{3})(\d{3})(\d{4})$', replace: '($1) $2-$3'}
    - {type: exclude_column, column: ssn}
  orders:
    - {type: filter, column: amount, parameters: {operator: gt, value: 0}}
    - {type: transform, column: note, parameters: {type: mask, mask_char: "#"}}
  journal:
    - {type: filter, column: kind, parameters: {operator: contains, value: vis}}
    - {type: transform, column: who, parameters: {type: mask}}
"""
ROUTING = """
eu: {source_table: orders, destination_table: orders_eu,
     when: [{column: region, operator: eq, value: eu}]}
other: {source_table: orders, destination_table: orders_other,
        when: [{column: region, operator: ne, value: eu}]}
"""
MASK = "left({0}, 1) || repeat('{1}', length({0}) - 2) || right({0}, 1)"
"""Every text that is masked here has three letters or more."""
ORDERS = f"SELECT id, region, amount, {MASK.format('note', '#')}, doc FROM orders"  # noqa: S608 - fixed texts
EXPECTED = {
    "people": f"SELECT id, {MASK.format('email', '*')},"  # noqa: S608
    r" regexp_replace(phone, '^(\d{3})(\d{3})(\d{4})$', '(\1) \2-\3'), age"
    " FROM people WHERE age >= 18",
    "orders_eu": f"{ORDERS} WHERE amount > 0 AND region = 'eu'",
    "orders_other": f"{ORDERS} WHERE amount > 0 AND region <> 'eu'",
    "journal": f"SELECT account, kind, {MASK.format('who', '*')}, at FROM journal"  # noqa: S608
    " WHERE strpos(kind, 'vis') > 0",
}
"""What each table of the destination holds."""

STATEMENTS = (
    "INSERT INTO people VALUES ({any}, 'new{n}', '5551234567', {n}, 's') ON CONFLICT DO NOTHING",
    "UPDATE people SET age = {n} WHERE id = {id}",
    "UPDATE people SET age = coalesce(age, 30) + 9 - {n} % 19 WHERE id = {id}",
    "UPDATE people SET email = 'mail{n}', phone = NULL WHERE id = {id}",
    (
        "UPDATE people SET id = {any}, age = {n} WHERE id = {id} AND NOT EXISTS"
        " (SELECT FROM people WHERE id = {any})"
    ),
    "DELETE FROM people WHERE id = {id}",
    (
        "INSERT INTO orders VALUES ({any}, (ARRAY['eu', 'us'])[{n} % 2 + 1], {n} - 20, 'note',"
        " repeat('x{n}', 2000)) ON CONFLICT DO NOTHING"
    ),
    "UPDATE orders SET region = (ARRAY['eu', 'us', NULL])[{n} % 3 + 1] WHERE id = {order}",
    "UPDATE orders SET amount = 10 - amount WHERE id = {order}",
    "UPDATE orders SET doc = repeat('y{n}', 2000), note = 'other' WHERE id = {order}",
    "DELETE FROM orders WHERE id = {order}",
    "INSERT INTO journal VALUES ({n}, 'visit', 'someone', clock_timestamp())",
    "INSERT INTO journal VALUES ({n}, 'call', 'nobody', clock_timestamp())",
    (
        "UPDATE journal SET kind = CASE kind WHEN 'call' THEN 'visa' ELSE 'call' END"
        " WHERE ctid = (SELECT max(ctid) FROM journal WHERE account = {n})"
    ),
    (
        "UPDATE journal SET who = 'who' || {n} WHERE ctid ="
        " (SELECT min(ctid) FROM journal WHERE account = {n})"
    ),
    "DELETE FROM journal WHERE ctid = (SELECT max(ctid) FROM journal WHERE account = {n})",
)


class RuledLoad(Load):
    """Writers whose changes filters, routes and keys have to do with."""

    def create(self, *, rows: int = 4000) -> None:
        """Create and fill the tables at the source, and what rules make of them elsewhere."""
        self.pipeline.source.execute(SCHEMA)
        self.pipeline.source.execute(sql.SQL(ROWS).format(rows=sql.Literal(rows)))
        self.pipeline.copy_schema()
        self.pipeline.target.execute(DESTINATIONS)

    @property
    def flags(self) -> tuple[str, ...]:
        """A worker's flags: the files that hold rules and routes."""
        flags = []
        for name, text in (("rules", RULES), ("routing", ROUTING)):
            path = self.pipeline.directory / f"{name}.yaml"
            path.write_text(text)
            flags += [f"--{name}-config", str(path)]
        return tuple(flags)

    def assert_filtered(self) -> None:
        """See that each destination holds what SQL makes of the source."""
        for table, query in EXPECTED.items():
            expected = sorted(self.pipeline.source.rows(sql.SQL(query)), key=repr)
            found = self.pipeline.target.rows(
                sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))
            )
            assert sorted(found, key=repr) == expected, table
            assert len(expected) > 50, table

    @staticmethod
    def _statement(conn: psycopg.Connection, rng: random.Random) -> None:
        numbers = {
            "id": rng.randrange(1, 600),
            "order": rng.randrange(1, 300),
            "any": rng.randrange(1, 100_000),
            "n": rng.randrange(40),
        }
        conn.execute(rng.choice(STATEMENTS).format(**numbers).encode())


@pytest.fixture
def ruled(pipeline: Pipeline) -> Iterator[RuledLoad]:
    """Give an application on the source whose rows move; PGFLO_SEED replays its choices."""
    made = RuledLoad(pipeline, seed_of_choices())
    yield made
    made.stop()
