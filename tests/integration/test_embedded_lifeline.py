"""Embedded servers end with the process that started them, whatever ends that process.

Each test starts a parent process that starts the servers, keeps them busy, and is then ended. What
is waited for is the end of processes (pidfd), among them the guardians, which end last.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.processes import command_line, descendants

from pgflo.embedded import EmbeddedNats, throw_away_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fix_nats import NatsFactory
    from tests.fix_postgres import PostgresFactory

GONE_WITHIN_S = 15.0
PARENT = """
import json, os, sys, threading
from pathlib import Path
import psycopg
from pgflo.embedded import EmbeddedNats, EmbeddedPostgres

postgres = EmbeddedPostgres(Path(sys.argv[1]), throw_away=True)
nats = EmbeddedNats(Path(sys.argv[2]), throw_away=sys.argv[3] == "throw away")
postgres.start()
nats.start()
spinning = "DO $$ BEGIN LOOP END LOOP; END $$"
program = "COPY (SELECT 1) TO PROGRAM 'trap \\"\\" INT TERM QUIT; touch busy; sleep 1000'"
connections = [psycopg.connect(postgres.dsn(), autocommit=True) for _ in range(2)]
for connection, statement in zip(connections, (spinning, program)):
    threading.Thread(target=connection.execute, args=[statement], daemon=True).start()
with psycopg.connect(postgres.dsn(), autocommit=True) as watcher:
    while watcher.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE state = 'active' AND (query LIKE 'DO %' OR query LIKE 'COPY %')"
    ).fetchone() != (2,) or not (postgres.data / "busy").exists():
        pass
fork = os.fork() if sys.argv[4] == "fork" else 0
if sys.argv[4] == "fork" and fork == 0:
    threading.Event().wait()  # goes on holding whatever its parent held
print(json.dumps({"nats": nats.pid, "fork": fork}), flush=True)
sys.stdin.read()
"""


@dataclass
class Family:
    """A parent with its servers: all their processes, their directories."""

    parent: subprocess.Popen[bytes]
    servers: list[psutil.Process]
    directories: list[Path]
    nats_pid: int
    fork_pid: int


@pytest.fixture
def directories() -> Iterator[list[Path]]:
    made = [throw_away_directory("pgflo-test-"), throw_away_directory("pgflo-test-")]
    yield made
    for path in made:  # of a test that failed
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def parent(directories: list[Path], request: pytest.FixtureRequest) -> Iterator[Family]:
    """Run the parent until its servers are busy. Parameter: `keep` and `fork`, or neither."""
    wishes = getattr(request, "param", "")
    arguments = ["keep" if "keep" in wishes else "throw away", "fork" if "fork" in wishes else ""]
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, *map(str, directories), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        if told["fork"]:
            stack.callback(os.kill, told["fork"], signal.SIGKILL)
        family = descendants(of=process.pid)
        servers = [child for child in family if child.pid != told["fork"]]
        assert len(servers) > 8  # two guardians, nats-server, postmaster and its children
        assert any(
            command_line(child).split()[:1] in (["sh"], ["dash"], ["sleep"]) for child in servers
        )
        yield Family(process, servers, directories, told["nats"], told["fork"])


@pytest.mark.parametrize("parent", ["", "fork"], indirect=True)
def test_after_kill_9_of_the_parent_no_process_and_no_directory_is_left(parent: Family) -> None:
    parent.parent.kill()
    assert_all_end(parent.servers)
    assert [path for path in parent.directories if path.exists()] == []
    if parent.fork_pid:
        assert psutil.pid_exists(parent.fork_pid)  # and still holds the parent's ends of the pipes


def test_a_parent_that_just_returns_leaves_nothing(parent: Family) -> None:
    assert parent.parent.stdin is not None
    parent.parent.stdin.close()
    assert parent.parent.wait(GONE_WITHIN_S) == 0
    assert_all_end(parent.servers)
    assert [path for path in parent.directories if path.exists()] == []


def test_a_stopped_server_ends_with_its_parent_too(parent: Family) -> None:
    os.kill(parent.nats_pid, signal.SIGSTOP)
    parent.parent.kill()
    assert_all_end(parent.servers)


@pytest.mark.parametrize("parent", ["keep"], indirect=True)
def test_a_store_that_is_to_be_kept_outlives_the_parent_and_serves_the_next(parent: Family) -> None:
    directory = parent.directories[1]
    parent.parent.kill()
    # At once: the next one waits until the last process has let the directory go.
    with EmbeddedNats(directory, throw_away=True) as after:
        assert not psutil.pid_exists(parent.nats_pid) or after.pid != parent.nats_pid
        assert (directory / "server.log").read_text().count("Server is ready") == 2
    assert_all_end(parent.servers)


def test_a_server_ends_when_its_guardian_is_killed(
    postgres_server: PostgresFactory, nats_factory: NatsFactory
) -> None:
    for server in (postgres_server(), nats_factory()):
        postmaster = psutil.Process(server.pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        guardian = postmaster.parent()
        assert guardian is not None
        guardian.kill()
        assert_all_end([guardian, *processes])
        assert not server.running
        server.close()
        assert not server.directory.exists()


def test_a_server_whose_guardian_was_killed_can_be_started_again(
    postgres_server: PostgresFactory,
) -> None:
    server = postgres_server()
    guardian = psutil.Process(server.pid).parent()
    assert guardian is not None
    guardian.kill()
    # Its postmaster may still be shutting down: start waits for the lock of the directory.
    server.start()
    assert server.running


def test_a_server_that_died_by_itself_is_not_running(nats_factory: NatsFactory) -> None:
    server = nats_factory()
    assert server.wait_for_end(0) is None
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait_for_end(GONE_WITHIN_S) == -signal.SIGKILL
    assert not server.running
    server.start()
    assert server.running


def assert_all_end(processes: list[psutil.Process]) -> None:
    """Wait until every process has ended (a zombie has), or fail with those that have not."""
    deadline = time.monotonic() + GONE_WITHIN_S
    left = []
    for process in processes:
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if process.is_running() and not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                left.append(process)
        finally:
            os.close(handle)
    assert left == []
