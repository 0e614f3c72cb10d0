"""Help and usage: quick, complete, and the same block of text for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pgflo.cli.app import app
from pgflo.errors import Exit

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = [
    ("replicate",),
    ("worker", "postgres"),
    ("run",),
    ("status",),
    ("compare",),
    ("rules", "test"),
    ("rules", "lint"),
    ("config", "schema"),
    ("drop",),
    ("demo",),
    ("version",),
]
TO = ("replicate", "--group", "g", "--source", "dbname=a", "--to")
HEAVY = {"nats", "pydantic", "psycopg", "structlog", "uvloop", "orjson", "ruamel", "psutil"}
HELP_LIMIT_S = 0.4
"""Twice the 200 ms that users are promised: a busy machine counts more processor time as well."""


def pgflo(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `pgflo` as a user would, without settings from outside."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(
        [sys.executable, "-m", "pgflo", *arguments],
        cwd=cwd,
        env={**clean, "HOME": str(cwd), "COLUMNS": "120", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_help_of_every_command_works_and_names_its_flags(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    done = pgflo(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "Usage: pgflo" in done.stdout
    if command in (("replicate",), ("run",)):
        assert "--max-copy-workers-per-table" in done.stdout  # not cut


def test_help_imports_nothing_that_is_slow(tmp_path: Path) -> None:
    script = (
        "import sys; from pgflo.cli.app import run; run(['replicate', '--help']);"
        "print(','.join(name for name in sys.modules if '.' not in name), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stderr.strip().split(","))


def test_help_stays_quick(tmp_path: Path) -> None:
    def once() -> float:
        before = os.times()
        assert pgflo("--help", cwd=tmp_path).returncode == 0
        # Processor time of the child: what else the machine does is not our doing.
        ended = os.times()
        return (ended.children_user - before.children_user) + (
            ended.children_system - before.children_system
        )

    assert min(once() for _ in range(7)) < HELP_LIMIT_S


def test_the_alias_of_replicate_is_replicate(tmp_path: Path) -> None:
    assert "Copy tables and stream their changes" in pgflo("replicator", "-h", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("replicat",), "replicate"),
        (("replicate", "--gruop", "a"), "--group"),
        (("replicate",), "Missing option '--group'"),
        (("worker", "postgres"), "Missing option '--group'"),
        (("worker", "kafka"), "No such command 'kafka'"),
        (("status",), "Missing option '--group'"),
        (("drop",), "Missing option '--group'"),
        (("replicate", "--group", "g"), "--source or --dbname is missing"),
        (("replicate", "--group", "G!"), "is not a name of a-z, 0-9 and _"),
        (("worker", "postgres", "--group", "g"), "--target or --target-dbname is missing"),
        (("run", "--group", "g", "--source", "dbname=a"), "--target or --target-dbname is missing"),
        (("compare", "--source", "dbname=a"), "--target or --target-dbname is missing"),
        (("replicate", "--group", "g", "--source", "dbname=a", "--restart"), "--yes"),
        ((*TO, "x"), "it has to be postgres://…, file:///DIRECTORY, https://… or stdout:"),
        ((*TO, "kafka:"), "there is no sink kafka"),
        ((*TO, "file:"), "a file sink needs more than its kind"),
        ((*TO, "file:///a", "--to", "file:///b"), "two sinks are called file"),
        ((*TO, "stdout:", "--to", "b=stdout:"), "two sinks would print to one stdout"),
        ((*TO[:-1], "--shards", "2"), "--shards says something of a sink"),
        (("drop", "--config", "none.yaml", "--group", "g"), "no configuration file none.yaml"),
    ],
)
def test_a_usage_error_says_what_is_wrong_and_what_to_do(
    arguments: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    done = pgflo(*arguments, cwd=tmp_path, env={"PG_FLO_LOG_FORMAT": "console"})
    assert done.returncode == Exit.USAGE
    assert done.stdout == ""
    assert told in done.stderr
    assert done.stderr.startswith("error: ")
    assert "\nnext:  " in done.stderr
    assert "Traceback" not in done.stderr


def test_required_settings_stay_required_with_a_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "pgflo.yaml").write_text("host: db1\ndbname: shop\n")
    done = pgflo("replicate", cwd=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "Missing option '--group'" in done.stderr


def test_an_error_is_one_line_of_json_where_the_log_is_json(tmp_path: Path) -> None:
    for done in (
        pgflo("replicate", "--group", "g", "--log-format", "json", cwd=tmp_path),
        pgflo("replicate", "--log-format=json", cwd=tmp_path),
        pgflo("replicate", "--group", "g", cwd=tmp_path, env={"PG_FLO_LOG_FORMAT": "json"}),
        pgflo("replicate", cwd=tmp_path),  # a service without a terminal
        pgflo("worker", "postgres", "--group", "g", cwd=tmp_path),
    ):
        told = json.loads(done.stderr.splitlines()[-1])
        assert told["kind"] == "usage"
        assert told["exit_code"] == done.returncode == Exit.USAGE
        assert told["hint"]


def test_version_tells_the_core_and_libpq(tmp_path: Path) -> None:
    told = json.loads(pgflo("version", "--json", cwd=tmp_path).stdout)
    assert set(told) == {"pgflo", "core", "python", "libpq"}
    assert told["pgflo"] in pgflo("version", cwd=tmp_path).stdout


def test_every_command_of_the_program_is_in_this_test() -> None:
    assert set(app.commands) == {command[0] for command in COMMANDS}
