"""`pgflo replicate --to`: replicator and sinks in one tree, from URLs that nobody else sees."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.fix_pipeline import eventually
from tests.fix_sinks import Receiver, committed, fold, parse, source_rows, status
from tests.fix_tree import GROUP, clean_environment, fill, is_equal
from tests.processes import command_line, descendants, is_gone

from pgflo.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fix_pipeline import Command
    from tests.fix_postgres import Database
    from tests.fix_sinks import Event, Rows

CANARY = "canary4711"
COPY = ("replicate", "--group", GROUP, "--copy-and-stream", "--tables", "a")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Give a receiver of webhooks."""
    made = Receiver()
    yield made
    made.close()


def printed(command: Command) -> list[Event]:
    """Give the events among what a command wrote."""
    lines = command.log.read_text().splitlines()
    return [parse(line) for line in lines if line.startswith('{"id":')]


def has(events: Callable[[], list[Event]], rows: Rows) -> Callable[[], bool]:
    """Give the question whether what came folds to these rows."""
    return lambda: fold(events(), "a") == rows


def test_every_sink_named_takes_copy_and_changes_and_no_secret_shows(
    source: Database,
    target: Database,
    start: Callable[..., Command],
    receiver: Receiver,
    tmp_path: Path,
) -> None:
    fill(source, target)
    # GIVEN a password and a token that are typed, two sinks of one kind, and settings of sinks
    files, more = tmp_path / "a file", tmp_path / "more"
    to = start(
        *COPY,
        *(
            "--to",
            target.dsn.replace("postgres@", f"postgres:{CANARY}@"),
            "--to",
            f"{receiver.url}/{CANARY}",
            "--to",
            "stdout:",
        ),
        *("--to", f"file://{tmp_path}/a%20file", "--to", f"more=file://{more}"),
        *("--webhook-batch", "1000", "--file-max-size", "100kB", "-v"),
        PG_FLO_SOURCE=source.dsn,
    )
    eventually(is_equal(source, target), "the copy")
    source.execute("UPDATE a SET name = 'new' WHERE id % 3 = 0", "DELETE FROM a WHERE id = 1")
    eventually(is_equal(source, target), "the changes")
    rows = source_rows(source, "a")
    eventually(has(lambda: committed(files), rows), "the same rows in files")
    eventually(has(lambda: committed(more), rows), "the same rows in further files")
    eventually(has(receiver.events, rows), "the same rows in requests")
    eventually(has(lambda: printed(to), rows), "the same rows in the output")
    # THEN a name tells sinks of a kind apart, and the settings hold
    assert sorted(path.name for path in more.glob("*.lock")) == [f"{GROUP}-more.lock"]
    assert len(list(files.glob("*.jsonl"))) > 2
    assert len(receiver.seen) < 100
    # THEN neither secret shows up in a process's arguments or in the log
    children = descendants(of=to.pid)
    shown = [command_line(one) for one in [psutil.Process(to.pid), *children]]
    assert [text for text in shown if CANARY in text] == []
    assert to.stop() == Exit.DONE
    eventually(lambda: all(map(is_gone, children)), "the end of every child", limit_s=5)
    assert CANARY not in to.log.read_text()
    assert '"the process list shows this password' in to.log.read_text()


@pytest.mark.parametrize("flags", [("--copy",), ("--once",), ("--until", "now")])
def test_it_ends_when_every_sink_has_applied_all(
    flags: tuple[str, ...],
    source: Database,
    target: Database,
    start: Callable[..., Command],
    tmp_path: Path,
) -> None:
    fill(source, target)
    command = [word for word in COPY if flags != ("--copy",) or word != "--copy-and-stream"]
    to = start(
        *command,
        *flags,
        # A list as the environment has it.
        PG_FLO_TO=f"file://{tmp_path}/files {target.dsn}",
        PG_FLO_SOURCE=source.dsn,
    )
    assert to.wait() == Exit.DONE
    assert is_equal(source, target)()
    assert fold(committed(tmp_path / "files"), "a") == source_rows(source, "a")
    assert not list((tmp_path / "files").glob("*.part"))


@pytest.mark.parametrize(
    ("mode", "others", "code"),
    [
        ("--copy-and-stream", (), Exit.DONE),
        ("--copy", (), Exit.DONE),
        ("--copy", ("--to", "file:///{}/cut short"), Exit.SINK),
    ],
)
def test_a_reader_of_stdout_that_goes_away_ends_all_of_it(
    source: Database,
    target: Database,
    tmp_path: Path,
    mode: str,
    others: tuple[str, ...],
    code: Exit,
) -> None:
    fill(source, target)
    # More than its broker keeps: a copy that nobody takes would never end.
    source.execute("INSERT INTO a SELECT n, repeat('x', 1000) FROM generate_series(5001, 60000) n")
    replicate = ("replicate", "--group", GROUP, mode, "--tables", "a")
    to = (text.format(str(tmp_path).lstrip("/")) for text in others)
    limits = ("--stream-max-bytes", "32MB", "--snapshot-linger", "1s")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pgflo", *replicate, *limits, "--to", "stdout:", *to],
            env=clean_environment(tmp_path, PG_FLO_SOURCE=source.dsn),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        with process.stdout as output:
            assert parse(output.readline())["op"] == "insert"
            children = descendants(of=process.pid)
        assert process.wait(60) == code, (tmp_path / "log").read_text()
        eventually(lambda: all(map(is_gone, children)), "the end of every child", limit_s=5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def test_a_sink_that_refuses_ends_all_of_it_with_its_code_and_without_its_url(
    source: Database, target: Database, start: Callable[..., Command], receiver: Receiver
) -> None:
    fill(source, target)
    receiver.answers = [status(400, b"no")] * 9
    to = start(
        *COPY,
        *("--to", f"{receiver.url.replace('://', f'://user:{CANARY}@')}/{CANARY}"),
        PG_FLO_SOURCE=source.dsn,
    )
    children = eventually(lambda: descendants(of=to.pid), "children")
    assert to.wait() == Exit.SINK
    eventually(lambda: all(map(is_gone, children)), "the end of every child", limit_s=10)
    assert '"kind": "sink.rejected"' in to.log.read_text()
    assert CANARY not in to.log.read_text()
