"""`pgflo run`: the main job in one process tree that mends itself and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import stat
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.fix_pipeline import eventually
from tests.fix_sinks import committed
from tests.fix_tree import GROUP, child, fill, is_equal
from tests.processes import command_line, descendants, is_gone

from pgflo.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fix_pipeline import Command
    from tests.fix_postgres import Database

CANARY = "canary4711"


def test_run_copies_and_streams_and_ends_with_0_and_without_children(
    source: Database, target: Database, start: Callable[..., Command]
) -> None:
    fill(source, target)
    run = start(
        *("run", "--group", GROUP, "--copy-and-stream"),
        PG_FLO_SOURCE=source.dsn,
        PG_FLO_TARGET=target.dsn,
    )
    eventually(is_equal(source, target), "the copy")
    source.execute("UPDATE a SET name = 'new' WHERE id % 3 = 0", "DELETE FROM a WHERE id = 1")
    eventually(is_equal(source, target), "the changes")
    children = descendants(of=run.pid)
    assert len(children) >= 3
    assert run.stop() == Exit.DONE
    # A fork server notices by the end of its pipe, a moment later.
    eventually(lambda: all(map(is_gone, children)), "the end of every child", limit_s=5)


NESTED = """
group: shop
copy-and-stream: true
source: {dsn: "${SOURCE_DSN}", tables: [a]}
sinks:
  crm: {to: "${TARGET_DSN}", epoch-bytes: 1MB}
"""


def test_run_takes_everything_from_a_file_and_no_secret_shows_up_in_arguments_or_logs(
    source: Database, target: Database, start: Callable[..., Command], tmp_path: Path
) -> None:
    fill(source, target)
    file = tmp_path / "other.yaml"
    file.write_text(NESTED)
    run = start(
        *("run", "-c", str(file), "-v"),
        SOURCE_DSN=source.dsn.replace("postgres@", f"postgres:{CANARY}@"),
        TARGET_DSN=target.dsn.replace("postgres@", f"postgres:{CANARY}@"),
    )
    eventually(is_equal(source, target), "the copy")
    assert target.value("SELECT sink FROM pgflo.progress") == "crm"
    shown = [command_line(one) for one in [psutil.Process(run.pid), *descendants(of=run.pid)]]
    assert [text for text in shown if CANARY in text] == []
    assert run.stop() == Exit.DONE
    assert CANARY not in run.log.read_text()


@pytest.mark.parametrize("victim", ["pgflo replicate", "pgflo worker", "nats-server"])
def test_what_dies_is_started_again_and_nothing_is_lost(
    victim: str, source: Database, target: Database, start: Callable[..., Command]
) -> None:
    fill(source, target)
    run = start(
        *("run", "--group", GROUP, "--copy-and-stream"),
        PG_FLO_SOURCE=source.dsn,
        PG_FLO_TARGET=target.dsn,
    )
    eventually(is_equal(source, target), "the copy")
    before = child(run, victim)
    source.execute("INSERT INTO a SELECT n, 'more' FROM generate_series(10000, 11000) n")
    before.kill()
    source.execute("UPDATE a SET name = name || '!' WHERE id % 2 = 0")
    eventually(is_equal(source, target), f"all changes in spite of the death of {victim}")
    assert child(run, victim).pid != before.pid
    assert run.stop() == Exit.DONE


def test_kill_9_of_the_supervisor_takes_every_child_along(
    source: Database, target: Database, start: Callable[..., Command]
) -> None:
    fill(source, target)
    run = start(
        *("run", "--group", GROUP, "--copy-and-stream"),
        PG_FLO_SOURCE=source.dsn,
        PG_FLO_TARGET=target.dsn,
    )
    eventually(is_equal(source, target), "the copy")
    children = descendants(of=run.pid)
    run.kill()
    eventually(lambda: all(map(is_gone, children)), "the end of all children", limit_s=10)


def test_an_error_that_needs_help_stops_everything_with_its_code(
    source: Database, target: Database, start: Callable[..., Command]
) -> None:
    fill(source, target)
    target.execute("INSERT INTO a VALUES (1, 'was here before')")
    run = start(
        *("run", "--group", GROUP, "--copy-and-stream"),
        PG_FLO_SOURCE=source.dsn,
        PG_FLO_TARGET=target.dsn,
    )
    children = eventually(lambda: descendants(of=run.pid), "children")
    assert run.wait() == Exit.SINK
    assert '"kind": "sink.not_empty"' in run.log.read_text()
    eventually(lambda: all(map(is_gone, children)), "the end of all children", limit_s=10)


@pytest.mark.parametrize("flags", [("--copy",), ("--copy-and-stream", "--once")])
def test_run_ends_by_itself_where_its_mode_has_an_end(
    flags: tuple[str, ...], source: Database, target: Database, start: Callable[..., Command]
) -> None:
    fill(source, target)
    run = start(
        *("run", "--group", GROUP, *flags), PG_FLO_SOURCE=source.dsn, PG_FLO_TARGET=target.dsn
    )
    assert run.wait() == Exit.DONE
    assert is_equal(source, target)()


def test_the_second_signal_aborts_with_130(
    source: Database, target: Database, start: Callable[..., Command]
) -> None:
    fill(source, target)
    run = start(
        *("run", "--group", GROUP, "--copy-and-stream"),
        PG_FLO_SOURCE=source.dsn,
        PG_FLO_TARGET=target.dsn,
    )
    eventually(is_equal(source, target), "the copy")
    children = descendants(of=run.pid)
    child(run, "pgflo worker").suspend()  # it cannot drain now
    os.kill(run.pid, signal.SIGINT)
    eventually(lambda: '"stopping"' in run.log.read_text(), "the first signal")
    os.kill(run.pid, signal.SIGINT)
    assert run.wait(10) == Exit.INTERRUPTED
    eventually(lambda: all(map(is_gone, children)), "the end of all children", limit_s=10)


def test_worker_and_status_find_the_broker_that_replicate_started(
    source: Database, target: Database, start: Callable[..., Command], tmp_path: Path
) -> None:
    fill(source, target)
    worker = start("worker", "postgres", "--group", GROUP, PG_FLO_TARGET=target.dsn)
    assert worker.wait() == Exit.USAGE
    assert '"kind": "group.unknown"' in worker.log.read_text()

    replicate = start("replicate", "--group", GROUP, "--copy-and-stream", PG_FLO_SOURCE=source.dsn)
    told = tmp_path / "state" / GROUP / "broker.json"
    eventually(told.exists, "broker.json")
    assert stat.S_IMODE(told.stat().st_mode) == 0o600
    start("worker", "postgres", "--group", GROUP, PG_FLO_TARGET=target.dsn)
    eventually(is_equal(source, target), "the copy")
    assert start("status", "--group", GROUP).wait() == Exit.DONE

    second = start("replicate", "--group", GROUP, "--stream", PG_FLO_SOURCE=source.dsn)
    assert second.wait() == Exit.RUNNING

    # A replicator that is started again serves on the same port: the worker need not be touched.
    url = told.read_text()
    replicate.kill()
    source.execute("INSERT INTO a VALUES (20000, 'while nobody listened')")
    status = start("status", "--group", GROUP)
    assert status.wait() == Exit.BROKER
    assert "broker.unreachable" in status.log.read_text()
    start("replicate", "--group", GROUP, "--copy-and-stream", PG_FLO_SOURCE=source.dsn)
    eventually(is_equal(source, target), "the change made meanwhile")
    assert told.read_text().split(",")[0] == url.split(",")[0]


def test_once_under_run_means_what_the_source_had_however_late_it_is_published(
    source: Database, target: Database, start: Callable[..., Command]
) -> None:
    fill(source, target)
    settings = {"PG_FLO_SOURCE": source.dsn, "PG_FLO_TARGET": target.dsn}
    run = start("run", "--group", GROUP, "--copy-and-stream", **settings)
    eventually(is_equal(source, target), "the copy")
    assert run.stop() == Exit.DONE
    source.execute("INSERT INTO a SELECT n, 'late' FROM generate_series(30000, 60000) n")
    again = start("run", "--group", GROUP, "--copy-and-stream", "--until", "now", **settings)
    assert again.wait() == Exit.DONE
    assert is_equal(source, target)()


def test_replicate_that_ends_keeps_its_own_broker_until_the_worker_has_everything(
    source: Database, target: Database, start: Callable[..., Command]
) -> None:
    fill(source, target)
    replicate = start("replicate", "--group", GROUP, "--copy", PG_FLO_SOURCE=source.dsn)
    eventually(
        lambda: "the embedded broker stays" in replicate.log.read_text(), "all to be published"
    )
    worker = start("worker", "postgres", "--group", GROUP, PG_FLO_TARGET=target.dsn)
    assert worker.wait() == Exit.DONE
    assert replicate.wait() == Exit.DONE
    assert is_equal(source, target)()


BESIDE = """
group: shop
copy-and-stream: true
once: true
source: {dsn: "${SOURCE_DSN}", tables: [a]}
file: {max-size: 100MB, compress: none}
sinks:
  crm: {to: "${TARGET_DSN}"}
  lake: {to: "file://${FILES}"}
  log: {to: stdout}
"""


def test_run_gives_every_sink_of_a_file_a_worker_of_its_kind(
    source: Database, target: Database, start: Callable[..., Command], tmp_path: Path
) -> None:
    fill(source, target)
    file = tmp_path / "pgflo.yaml"
    file.write_text(BESIDE)
    run = start(
        *("run", "-c", str(file)),
        SOURCE_DSN=source.dsn,
        TARGET_DSN=target.dsn,
        FILES=str(tmp_path / "files"),
        PG_FLO_FILE_COMPRESS="gzip",
    )
    assert run.wait() == Exit.DONE
    assert is_equal(source, target)()
    rows = source.value("SELECT count(*) FROM a")
    events = committed(tmp_path / "files")
    assert len(events) == rows
    assert not list((tmp_path / "files").glob("*.part"))
    # What the environment says of all files goes before what the file says of all.
    assert list((tmp_path / "files").glob("*.jsonl.gz"))
    assert run.log.read_text().count('"op":"insert"') == rows
