"""Fixture `start`: commands as a user starts them, without settings from anywhere else.

Upstream: the servers of `fix_postgres`. Downstream: tests of `pgflo run`, `pgflo replicate --to`.
Invariant: what still runs at the end of a test is killed, and what was logged is shown.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.fix_pipeline import Command, eventually, sorted_dump_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import psutil
    from tests.fix_postgres import Database

GROUP = "shop"


def clean_environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    """Give what a command inherits: nothing of ours but what the test says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {
        **kept,
        "HOME": str(tmp_path),
        "PG_FLO_STATE_DIR": str(tmp_path / "state"),
        "PG_FLO_LOG_FORMAT": "json",
        "PG_FLO_RETRY_INITIAL_WAIT": "0.1s",
        "PG_FLO_RETRY_MAX_WAIT": "0.5s",
        **settings,
    }


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Start commands; whatever still runs at the end is killed, and all logs are shown."""
    started: list[Command] = []

    def begin(*arguments: str, **settings: str) -> Command:
        log = tmp_path / f"{len(started)}-{arguments[0]}.log"
        command = Command(list(arguments), clean_environment(tmp_path, **settings), log)
        started.append(command)
        return command

    yield begin
    for command in started:
        if command.exit_code() is None:
            command.kill()
        print(command.tail(8000))  # noqa: T201 - shown when the test fails


def fill(source: Database, target: Database) -> None:
    """Make a table with rows at the source, and without at the destination."""
    source.execute(
        "CREATE TABLE a (id int PRIMARY KEY, name text)",
        "INSERT INTO a SELECT n, 'n' || n FROM generate_series(1, 5000) n",
    )
    target.execute("CREATE TABLE a (id int PRIMARY KEY, name text)")


def is_equal(source: Database, target: Database) -> Callable[[], bool]:
    """Give the question whether both sides have the same rows."""
    return lambda: (
        sorted_dump_digest(source.dsn, "public", "a")
        == sorted_dump_digest(target.dsn, "public", "a")
    )


def child(command: Command, title: str) -> psutil.Process:
    """Wait for a child with this title."""
    found = eventually(lambda: command.children(title), f"a process {title}")
    return found[0]
