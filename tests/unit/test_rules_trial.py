"""`pgflo rules test` and `lint` without any server: what is printed, and which rule did it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pgflo.cli import app

if TYPE_CHECKING:
    from pathlib import Path

RULES = """
tables:
  users:
    - {type: transform, column: email, parameters: {type: mask}, operations: [INSERT]}
    - type: transform
      column: email
      parameters: {type: regex, pattern: '@.*', replace: ''}
      operations: [UPDATE]
    - {type: transform, column: note, parameters: {type: regex, pattern: 'x', replace: 'y'}}
    - {type: exclude_column, column: ssn}
    - {type: filter, column: age, parameters: {operator: gte, value: 18}}
"""
ROUTING = """
first:
  source_table: users
  destination_table: adults
  when: [{column: age, operator: gte, value: 60}]
second:
  source_table: users
  destination_table: people
  column_mappings: [{source: email, destination: mail}]
"""
ROW = {"id": 1, "email": "al@b.c", "note": "no", "age": 18, "ssn": "s"}


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return str(path)


def told(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = app.run(["rules", *arguments])
    out, err = capfd.readouterr()
    assert code == 0, err
    return out


def tried(
    capfd: pytest.CaptureFixture[str], *files: str, op: str = "insert", **more: object
) -> str:
    row = json.dumps(ROW | more)
    return told(capfd, "test", *files, "--table", "users", "--row", row, "--op", op)


def test_only_rules_that_made_another_text_are_named(
    rules: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tried(capfd, rules)
    assert out.splitlines() == [
        "public.users: INSERT",
        "  id: 1",
        f"  email: al@b.c → a****c  [mask {rules}:4:7]",
        "  note: no",
        "  age: 18",
        f"  ssn: left out  [exclude_column {rules}:10:7]",
    ]
    assert f"  email: al@b.c → al  [regex {rules}:5:7]" in tried(capfd, rules, op="update")
    assert tried(capfd, rules, age=3) == f"public.users: nothing, dropped by {rules}:11:7\n"


def test_rules_are_named_on_the_route_that_takes_the_row(
    rules: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    routing = tmp_path / "routing.yaml"
    routing.write_text(ROUTING)
    first, *second = tried(capfd, rules, str(routing)).splitlines()
    assert first == f"public.adults: nothing, dropped by {routing}:2:1"
    assert second[0] == "public.people: INSERT"
    assert f"  mail (from email): al@b.c → a****c  [mask {rules}:4:7]" in second


@pytest.mark.parametrize(
    ("written", "becomes"),
    [("", "passes in any case"), (", allow_empty_deletes: false", "is dropped, and its row stays")],
)
def test_lint_without_a_source_says_what_a_filter_may_lack(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], written: str, becomes: str
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES.replace("value: 18}", f"value: 18{written}}}"))
    note = next(line for line in told(capfd, "lint", str(path)).splitlines() if "age" in line)
    assert note.startswith(f'{path}:11:7: if "age" is no key of users, ')
    assert f"a delete {becomes}. REPLICA IDENTITY FULL" in note
