"""Fixture `pipeline`: one group run by the real commands, between two fresh databases.

Upstream: the servers of `fix_postgres` and `fix_nats`. Downstream: the tests of the main job and of
chaos. Invariant: every process is the command a user would type, found again by its process title;
everything that was started is stopped, and what it logged is shown when a test fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import psycopg
import pytest
from psycopg import sql
from tests.processes import descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import psutil
    from tests.fix_postgres import Database

LIMIT_S = 60.0
"""How long a test waits for an event before it fails, in seconds."""

LOG_TASKS_S = 5.0
"""How long a command gets to log where its tasks wait, in seconds."""

LOOK_S = 0.05
"""Pause between two looks at a server while waiting for an event."""


T = TypeVar("T")


def within(limit_s: float, question: Callable[[], T]) -> T:
    """Ask until the answer is true, at most for `limit_s`; give the last answer."""
    deadline, pause = time.monotonic() + limit_s, threading.Event()
    while not (answer := question()) and time.monotonic() <= deadline:
        pause.wait(LOOK_S)
    return answer


def eventually(question: Callable[[], T], what: str, *, limit_s: float = LIMIT_S) -> T:
    """Ask until the answer is true and return it; fail naming `what` after `limit_s`."""
    if not (answer := within(limit_s, question)):
        pytest.fail(f"not within {limit_s:.0f} s: {what}")
    return answer


class Command:
    """A running `pgflo` command with its process tree and its log."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.arguments = arguments
        self.log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pgflo", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )

    @property
    def pid(self) -> int:
        """Process id of the command itself."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Exit code, or None while it runs."""
        return self._process.poll()

    def children(self, title: str) -> list[psutil.Process]:
        """Descendants whose process title contains `title`."""
        return descendants(title, self.pid)

    def kill(self) -> None:
        """Kill -9 the command itself, as the kernel's memory killer would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask to stop (SIGTERM) and return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the end and return the exit code."""
        return self._process.wait(limit_s)

    def log_tasks(self) -> bool:
        """Let it log where its tasks wait; whether it did: a frozen one does not."""
        before = self._tasks_logged()
        self._process.send_signal(signal.SIGUSR1)
        return within(LOG_TASKS_S, lambda: self._tasks_logged() > before)

    def _tasks_logged(self) -> int:
        return self.log.read_text(errors="replace").count('"event":"task"')

    def tail(self, characters: int = 3000) -> str:
        """End of what it wrote."""
        return self.log.read_text(errors="replace")[-characters:]


class Pipeline:
    """A group between `source` and `target` through the broker at `nats_url`."""

    def __init__(
        self, source: Database, target: Database, nats_url: str, directory: Path, group: str
    ) -> None:
        self.source, self.target = source, target
        self.source_dsn, self.target_dsn = source.dsn, target.dsn
        self.nats_url, self.directory, self.group = nats_url, directory, group
        self.commands: list[Command] = []

    def environment(self) -> dict[str, str]:
        """Return the settings of every command, as a user would export them."""
        return {
            **os.environ,
            "PG_FLO_GROUP": self.group,
            "PG_FLO_SOURCE": self.source_dsn,
            "PG_FLO_TARGET": self.target_dsn,
            "PG_FLO_NATS_URL": self.nats_url,
            "PG_FLO_STATE_DIR": str(self.directory / "state"),
            "PG_FLO_LOG_FORMAT": "json",
            "PG_FLO_RETRY_INITIAL_WAIT": "0.2s",
            "PG_FLO_RETRY_MAX_WAIT": "1s",
        }

    def start(self, *arguments: str) -> Command:
        """Start `pgflo ARGUMENTS`."""
        log = self.directory / f"{arguments[0]}.log"
        command = Command(list(arguments), self.environment(), log)
        self.commands.append(command)
        return command

    def replicate(self, *flags: str) -> Command:
        """Start the replicator; copies and streams unless told otherwise."""
        mode = (
            () if {"--copy", "--stream", "--copy-and-stream"} & {*flags} else ("--copy-and-stream",)
        )
        return self.start("replicate", *mode, *flags)

    def worker(self, *flags: str) -> Command:
        """Start the PostgreSQL worker."""
        return self.start("worker", "postgres", *flags)

    def run_script(self, text: str) -> None:
        """Run SQL text at the source, as psql reads it."""
        self._psql(self.source_dsn, text.encode())

    def copy_schema(self) -> None:
        """Create the source's tables at the destination, as a user would by pg_dump and psql."""
        dump = subprocess.run(
            [str(self._programs / "pg_dump"), "--schema-only", "--no-owner", self.source_dsn],
            check=True,
            capture_output=True,
        ).stdout
        self._psql(self.target_dsn, dump)

    @property
    def _programs(self) -> Path:
        return self.source.server.binaries.path

    def _psql(self, dsn: str, text: bytes) -> None:
        subprocess.run(
            [str(self._programs / "psql"), "-q", "-v", "ON_ERROR_STOP=1", dsn],
            input=text,
            check=True,
            capture_output=True,
        )

    def applied_lsn(self) -> int:
        """LSN that the destination has committed; 0 before the first start."""
        with psycopg.connect(self.target_dsn, autocommit=True) as conn:
            exists = conn.execute("SELECT to_regclass('pgflo.progress')").fetchone()
            if exists is None or exists[0] is None:
                return 0
            row = conn.execute(
                "SELECT (min(end_lsn) - '0/0')::bigint FROM pgflo.progress WHERE group_name = %s",
                (self.group,),
            ).fetchone()
        return int(row[0]) if row and row[0] is not None else 0

    def source_lsn(self) -> int:
        """Where the source's log ends now."""
        with psycopg.connect(self.source_dsn, autocommit=True) as conn:
            row = conn.execute("SELECT (pg_current_wal_lsn() - '0/0')::bigint").fetchone()
        assert row is not None
        return int(row[0])

    def wait_caught_up(self, *, limit_s: float = LIMIT_S) -> None:
        """Wait until the destination has everything that the source has committed by now.

        Two marks: the first one may lie before the snapshot of a copy that has yet to begin, whose
        start the destination then shows; the second lies behind it, where only changes lead to.
        """
        for _ in range(2):
            mark = self.mark()
            try:
                eventually(
                    partial(self._has_reached, mark),
                    f"destination at the source's LSN {mark:#x}",
                    limit_s=limit_s,
                )
            except pytest.fail.Exception:
                self._look_inside()
                raise

    def _look_inside(self) -> None:
        """Let every command log where its tasks wait: for whoever reads why a wait was in vain."""
        for command in self.commands:
            if command.exit_code() is None:
                command.log_tasks()

    def mark(self) -> int:
        """Write a logical message at the source, so that no wait needs an idle period there."""
        with psycopg.connect(self.source_dsn, autocommit=True) as conn:
            row = conn.execute(
                "SELECT (pg_logical_emit_message(true, 'test', '') - '0/0')::bigint"
            ).fetchone()
        assert row is not None
        return int(row[0])

    def _has_reached(self, mark: int) -> bool:
        self.assert_alive()
        with contextlib.suppress(psycopg.OperationalError):
            return self.applied_lsn() >= mark
        return False

    def assert_alive(self) -> None:
        """Fail with the log of a command that ended by an error of its own."""
        for command in self.commands:
            if (code := command.exit_code()) is not None and code > 0:
                pytest.fail(f"{command.arguments} ended with exit {code}:\n{command.tail()}")

    def tables(self) -> list[tuple[str, str]]:
        """Plain and partitioned root tables of the source, outside the system's schemas."""
        with psycopg.connect(self.source_dsn, autocommit=True) as conn:
            return [
                (str(schema), str(name))
                for schema, name in conn.execute(
                    "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n"
                    " ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')"
                    " AND NOT c.relispartition AND n.nspname NOT IN"
                    " ('pg_catalog', 'information_schema', 'pgflo') ORDER BY 1, 2"
                )
            ]

    def assert_identical(self) -> None:
        """Hash sorted dumps of every table on both sides: no code of pgflo takes part."""
        for schema, name in self.tables():
            source = sorted_dump_digest(self.source_dsn, schema, name)
            target = sorted_dump_digest(self.target_dsn, schema, name)
            assert source == target, f"{schema}.{name} differs: (rows, digest) {source} {target}"

    def stop_all(self) -> None:
        """Stop every command that still runs, without a verdict."""
        for command in self.commands:
            if command.exit_code() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    command.stop()
                if command.exit_code() is None:
                    command.kill()


def sorted_dump_digest(dsn: str, schema: str, name: str) -> tuple[int, str]:
    """Count and SHA-256 of the rows of a table, printed as text and sorted by it."""
    query = sql.SQL(
        'COPY (SELECT t::text FROM {} t ORDER BY t::text COLLATE "C") TO STDOUT'
    ).format(sql.Identifier(schema, name))
    digest, rows = hashlib.sha256(), 0
    with psycopg.connect(dsn, autocommit=True) as conn, conn.cursor().copy(query) as copy:
        for row in copy:
            digest.update(row)
            rows += 1
    return rows, digest.hexdigest()


@pytest.fixture
def pipeline(
    source: Database,
    target: Database,
    nats_url: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Pipeline]:
    """Give a group with its own databases, broker and state directory."""
    group = "t" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:10]
    made = Pipeline(source, target, nats_url, tmp_path, group)
    yield made
    made.stop_all()
    for log in sorted(tmp_path.glob("*.log")):
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}")  # noqa: T201
