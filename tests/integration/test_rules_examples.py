"""The example files, as a user takes them: copied and streamed rows are what SQL says they are."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.fix_pipeline import eventually

if TYPE_CHECKING:
    from tests.fix_pipeline import Pipeline

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

USERS = (
    "CREATE TABLE users (id int PRIMARY KEY, email text, phone varchar(20), age int, ssn text,"
    " tenant_id bigint NOT NULL, doc text)"
)
ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, region text, tenant_id bigint NOT NULL)"
MASKED = (
    "CASE WHEN length({c}) < 3 THEN repeat('*', length({c})) ELSE left({c}, 1)"
    " || repeat('*', length({c}) - 2) || right({c}, 1) END"
).format(c="email")
PHONE = r"regexp_replace(phone, '^(\d{3})(\d{3})(\d{4})$', '(\1) \2-\3')"

FIRST = """
INSERT INTO users SELECT g, repeat('ab', g % 3) || g, CASE WHEN g % 4 > 0 THEN 5550000000 + g END,
    CASE WHEN g % 9 > 0 THEN g % 40 END, 's' || g, g % 10, repeat('x' || g, 2000)
FROM generate_series(1, 2000) g;
INSERT INTO orders SELECT g, (ARRAY['eu', 'us', NULL])[g % 3 + 1], g % 10
FROM generate_series(1, 900) g;
"""
LATER = """
INSERT INTO users SELECT g, E'tab\\t\\\\' || g, '5551234567', g % 30, 's', g % 10, 'd'
FROM generate_series(3001, 3400) g;
UPDATE users SET age = age + 3 WHERE id % 2 = 0;
UPDATE users SET age = age - 5, email = 'new' || id WHERE id % 5 = 0;
UPDATE users SET tenant_id = (tenant_id + 1) % 10 WHERE id % 7 = 0;
UPDATE users SET age = 17 WHERE id BETWEEN 100 AND 110;
UPDATE users SET phone = NULL WHERE id % 11 = 0;
UPDATE orders SET region = 'eu' WHERE id % 4 = 0;
UPDATE orders SET region = 'us', tenant_id = 7 WHERE id % 6 = 0;
UPDATE orders SET id = id + 10000 WHERE id % 50 = 0;
DELETE FROM users WHERE id % 13 = 0;
DELETE FROM orders WHERE id % 17 = 0;
"""


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query.encode()).fetchall()


def database(pipeline: Pipeline, name: str, *statements: str) -> str:
    """Make a destination beside the pipeline's own."""
    dsn = make_conninfo(pipeline.target_dsn, dbname=f"{pipeline.group}_{name}")
    with psycopg.connect(pipeline.target_dsn, autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {}").format(sql.Identifier(f"{pipeline.group}_{name}"))
        )
    with psycopg.connect(dsn) as conn:
        for statement in statements:
            conn.execute(statement.encode())
    return dsn


def reached(dsn: str, mark: int) -> bool:
    with psycopg.connect(dsn) as conn:
        exists = conn.execute("SELECT to_regclass('pgflo.progress')").fetchone()
        if exists == (None,):
            return False
        row = conn.execute("SELECT (min(end_lsn) - '0/0')::bigint FROM pgflo.progress").fetchone()
    return row is not None and row[0] is not None and int(row[0]) >= mark


def test_every_example_does_what_sql_says_to_copied_and_to_streamed_rows(
    pipeline: Pipeline,
) -> None:
    # GIVEN one source, and a sink with a database of its own for each example
    pipeline.run_script(f"{USERS}; {ORDERS}; ALTER TABLE orders REPLICA IDENTITY FULL; {FIRST}")
    crm = (
        "CREATE TABLE crm.customers (customer_id int PRIMARY KEY, email text, phone text, age int,"
        " ssn text, tenant_id bigint, doc text, seen timestamptz DEFAULT now())"
    )
    like = "CREATE TABLE {} (LIKE orders INCLUDING ALL)"
    sinks = {
        "rules": ("--rules-config", (USERS.replace(" ssn text,", ""), ORDERS)),
        "multi_tenant": ("--rules-config", (USERS, ORDERS)),
        "routing": ("--routing-config", ("CREATE SCHEMA crm", crm, ORDERS)),
        "duplicate": ("--routing-config", (USERS, ORDERS, like.format("orders_archive"))),
        "split": (
            "--routing-config",
            (USERS, ORDERS, like.format("orders_eu"), like.format("orders_other")),
        ),
    }
    dsns = {name: database(pipeline, name, *tables) for name, (_, tables) in sinks.items()}
    # WHEN all of it is copied and streamed; half of the sinks spread changes over shards
    pipeline.replicate("--range-size", "64kB")
    for number, (name, (flag, _)) in enumerate(sinks.items()):
        pipeline.worker(
            *("--sink", name, "--target", dsns[name], flag, str(EXAMPLES / f"{name}.yaml")),
            *("--shards", str(1 + 2 * (number % 2))),
        )
    for dsn in dsns.values():
        eventually(partial(reached, dsn, 1), "copied rows and the start of streaming")
    pipeline.run_script(LATER)
    pipeline.run_script("UPDATE users SET age = age + 1 WHERE id < 50")
    mark = pipeline.mark()
    for dsn in dsns.values():
        eventually(partial(reached, dsn, mark), "everything applied")
    pipeline.assert_alive()
    # THEN each destination holds what a SELECT at the source gives
    source = pipeline.source_dsn
    everything = "SELECT * FROM users ORDER BY id"
    masked = f"SELECT id, {MASKED}, {PHONE}, age, tenant_id, doc FROM users"  # noqa: S608 - fixed texts
    assert rows(dsns["rules"], everything) == rows(source, f"{masked} WHERE age >= 18 ORDER BY id")
    assert len(rows(dsns["rules"], everything)) > 500
    for table in ("users", "orders"):
        own = f"SELECT * FROM {table} WHERE tenant_id = 7 ORDER BY id"  # noqa: S608
        assert rows(dsns["multi_tenant"], f"SELECT * FROM {table} ORDER BY id") == rows(source, own)  # noqa: S608
    customers = "SELECT customer_id, email, phone, age, ssn, tenant_id, doc FROM crm.customers"
    assert rows(dsns["routing"], f"{customers} ORDER BY customer_id") == rows(source, everything)
    orders = "SELECT * FROM {} {} ORDER BY id"
    for name in ("rules", "routing", "duplicate"):
        assert rows(dsns[name], orders.format("orders", "")) == rows(
            source, orders.format("orders", "")
        )
    for table, condition in (("orders_eu", "= 'eu'"), ("orders_other", "<> 'eu'")):
        wanted = rows(source, orders.format("orders", f"WHERE region {condition}"))
        assert rows(dsns["split"], orders.format(table, "")) == wanted
    # AND the status counts what each rule did
    status = pipeline.start("status", "--json")
    assert status.wait() == 0
    by_name = {sink["name"]: sink for sink in json.loads(status.tail(100_000))["sinks"]}
    done = {
        (rule["table"], rule["column"], rule["kind"]): rule for rule in by_name["rules"]["rules"]
    }
    assert done["public.users", "email", "mask"]["changed_rows"] > 500
    filtered = done["public.users", "age", "filter"]
    assert filtered["dropped_rows"] > 500
    metrics = pipeline.start("status", "--prometheus")
    assert metrics.wait() == 0
    printed = [line for line in metrics.tail(100_000).splitlines() if not line.startswith("{")]
    families = text_string_to_metric_families("\n".join(printed) + "\n")
    counted = {
        tuple(sample.labels[name] for name in ("sink", "rule", "type", "table", "column")): sample
        for family in families
        for sample in family.samples
        if sample.name == "pgflo_rule_dropped_rows_total"
    }
    told = counted["rules", str(filtered["number"]), "filter", "public.users", "age"]
    assert told.value == filtered["dropped_rows"]
    archived = {row[0] for row in rows(dsns["duplicate"], orders.format("orders_archive", ""))}
    assert archived > {row[0] for row in rows(source, orders.format("orders", ""))}
