"""`pgflo rules test` and `pgflo rules lint` against real servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgflo.cli import app

if TYPE_CHECKING:
    import pytest
    from tests.fix_postgres import Database

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

USERS = (
    "CREATE DOMAIN adult AS int",
    "CREATE TABLE users (id int PRIMARY KEY, email text, phone text, age adult, ssn text)",
    "CREATE TABLE orders (id int PRIMARY KEY, region text)",
)


def pgflo(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = app.run(list(arguments))
    told = capfd.readouterr()
    return code, told.out, told.err


def test_lint_checks_files_against_source_and_destination(
    source: Database, target: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    source.execute(*USERS)
    target.execute(*USERS)
    rules, routing = str(EXAMPLES / "rules.yaml"), str(EXAMPLES / "routing.yaml")
    both = ("--source", source.dsn, "--target", target.dsn)
    # What a DELETE does not carry is named, and is no mistake.
    code, out, _ = pgflo(capfd, "rules", "lint", rules, *both)
    told = '"age" as it was before: a delete passes in any case. `ALTER TABLE public.users REPLICA'
    assert (code, told in out, "no mistake" in out) == (0, True, True)
    # A destination that is not there, and one of another type
    code, _, err = pgflo(capfd, "rules", "lint", rules, routing, *both)
    assert (code, "crm.customers" in err) == (5, True)
    target.execute(
        "CREATE SCHEMA crm",
        "CREATE TABLE crm.customers (customer_id date, email text, phone text, age int)",
    )
    code, _, err = pgflo(capfd, "rules", "lint", rules, routing, *both)
    assert code == 2
    assert '"id" of public.users is integer, "customer_id" of crm.customers is date' in err
    # A key that is known at the destination only
    source.execute("ALTER TABLE users REPLICA IDENTITY FULL")
    target.execute(
        "DROP TABLE users",
        "CREATE TABLE users (id int, email text PRIMARY KEY, phone text, age int, ssn text)",
    )
    code, _, err = pgflo(capfd, "rules", "lint", rules, *both)
    assert (code, '"email" becomes a key of public.users' in err) == (2, True)


def test_a_row_is_tried_with_the_types_of_its_table(
    source: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    source.execute(*USERS)
    row = {"id": 1, "email": "alice", "phone": "5551234567", "age": 18, "ssn": "x"}

    def tried(*more: str, **changes: object) -> list[dict[str, Any]]:
        rules, given = str(EXAMPLES / "rules.yaml"), json.dumps(row | changes)
        code, out, err = pgflo(
            capfd,
            *("rules", "test", rules, "--table", "users", "--row", given, "--json"),
            *("--source", source.dsn, *more),
        )
        assert code == 0, err
        found: list[dict[str, Any]] = json.loads(out)
        return found

    (passed,) = tried()
    assert {column: len(by) for column, by in passed["changed_by"].items()} == {
        "email": 1,
        "phone": 1,
    }
    assert passed["values"] == {"id": "1", "email": "a***e", "phone": "(555) 123-4567", "age": "18"}
    (dropped,) = tried(age=9)
    assert (dropped["operation"], str(dropped["dropped_by"]).endswith("rules.yaml:11:7")) == (
        "",
        True,
    )
    (left,) = tried("--op", "update", age=17)
    assert (left["operation"], left["presence"]) == ("DELETE", "maybe")
    (entered,) = tried("--op", "update", "--old", json.dumps(row | {"age": 3}))
    assert (entered["operation"], entered["presence"]) == ("INSERT", "")
