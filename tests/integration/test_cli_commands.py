"""`pgflo status` and `drop` on a real group, and how commands treat passwords."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from tests.fix_pipeline import Command, Pipeline, eventually

from pgflo.embedded import EmbeddedPostgres, throw_away_directory
from pgflo.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CANARY = "canary4711"


def pgflo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(
        [sys.executable, "-m", "pgflo", *arguments],
        env={**clean, "PG_FLO_CONFIG": os.devnull, "COLUMNS": "160", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def running(pipeline: Pipeline) -> Pipeline:
    """Give a group that has copied a table and streams."""
    pipeline.source.execute(
        "CREATE TABLE a (id int PRIMARY KEY, name text)",
        "INSERT INTO a SELECT n, 'n' || n FROM generate_series(1, 5000) n",
    )
    pipeline.copy_schema()
    pipeline.replicate("--range-size", "64kB")
    pipeline.worker()
    pipeline.wait_caught_up()
    return pipeline


def status(pipeline: Pipeline, *flags: str) -> dict[str, Any]:
    """Ask for the status of a group without the source."""
    done = pgflo(
        *("status", "--group", pipeline.group, "--nats-url", pipeline.nats_url, "--json"), *flags
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_status_tells_phase_positions_lag_and_the_copy_of_each_table(running: Pipeline) -> None:
    told = eventually(
        lambda: (now := status(running))["sinks"][0]["lag_s"] == 0.0 and now, "the sink's position"
    )
    assert (told["group"], told["phase"], told["mode"]) == (
        running.group,
        "streaming",
        "copy-and-stream",
    )
    (table,) = told["tables"]
    assert (table["schema"], table["name"]) == ("public", "a")
    assert table["published_rows"] == 5000
    assert table["published_ranges"] == table["ranges"] == table["applied"]["postgres"]
    assert told["sinks"][0]["phase"] == "streaming"
    assert told["source"] is None
    with_source = status(running, "--source", running.source_dsn)["source"]
    assert with_source["slot_active"] is True
    assert with_source["wal_status"] == "reserved"
    assert with_source["retained_bytes"] >= 0
    assert status(running, "--source", "host=127.0.0.1 port=1 dbname=x")["source"] is None


def test_status_tells_how_fast_a_copy_goes_and_what_it_came_to(pipeline: Pipeline) -> None:
    # GIVEN a copy that fills the broker, since nobody takes its rows
    rows = 20000
    pipeline.source.execute(
        "CREATE TABLE a (id int PRIMARY KEY, name text)",
        "INSERT INTO a SELECT n, repeat('n', 500) FROM generate_series(1, 20000) n",
        "ANALYZE a",
        "CREATE TABLE b (id int PRIMARY KEY)",
    )
    pipeline.copy_schema()
    limits = ("--range-size", "32kB", "--max-copy-workers", "1", "--stream-max-bytes", "4MB")
    replicator = pipeline.replicate(*limits)
    tail = ("--group", pipeline.group, "--nats-url", pipeline.nats_url)

    def rate() -> float | None:
        answer = pgflo("status", *tail, "--json")
        tables = [] if answer.returncode else json.loads(answer.stdout)["tables"]
        return tables[0]["rows_per_s"] if tables else None

    # THEN another process is told rows, rate and the time that is left, of each table and of all
    eventually(rate, "a rate")
    told = status(pipeline)
    (a, b), copy = told["tables"], told["copy"]
    assert 0 < a["copied_rows"] < a["estimated_rows"]
    assert abs(a["estimated_rows"] - rows) < rows / 20
    assert a["copied_bytes"] > 500 * a["copied_rows"]
    assert 0 < a["fraction"] < 1
    assert a["rows_per_s"] > 0
    assert a["eta_s"] > 0
    assert a["seconds"] > 0
    assert (b["copied_rows"], b["rows_per_s"], b["eta_s"]) == (0, None, None)
    assert (copy["tables"], copy["tables_done"], copy["rows"]) == (2, 0, a["copied_rows"])
    assert copy["eta_s"] > 0
    shown = pgflo("status", *tail).stdout
    assert "rows/s" in shown
    assert " left" in shown
    # WHEN the replicator is gone, nothing moves, and what it had under way counts no more
    replicator.kill()
    told = status(pipeline)
    assert told["copy"]["rows_per_s"] is told["copy"]["eta_s"] is None
    assert told["tables"][0]["copied_rows"] == told["tables"][0]["published_rows"]
    # and what all of it came to can be read when it is done
    pipeline.replicate(*limits)
    pipeline.worker()
    pipeline.wait_caught_up()
    copy = status(pipeline)["copy"]
    assert (copy["rows"], copy["tables_done"], copy["fraction"]) == (rows, 2, 1.0)
    assert copy["ranges"] == copy["ranges_done"]
    assert copy["eta_s"] == 0
    assert copy["rows_per_s"] == pytest.approx(rows / copy["seconds"], rel=0.01)
    (a, b) = status(pipeline)["tables"]
    assert (a["copied_rows"], a["eta_s"], b["copied_rows"], b["eta_s"]) == (rows, 0.0, 0, 0.0)


def test_status_tells_the_ranges_of_a_copy_under_way_and_who_holds_its_snapshot(
    pipeline: Pipeline,
) -> None:
    pipeline.source.execute(
        "CREATE TABLE a (id int PRIMARY KEY, name text)",
        "INSERT INTO a SELECT n, repeat('n', 500) FROM generate_series(1, 20000) n",
    )
    pipeline.copy_schema()
    replicator = pipeline.replicate("--range-size", "32kB", "--max-copy-workers", "1")

    def published() -> int:
        if pgflo("status", "--group", pipeline.group, "--nats-url", pipeline.nats_url).returncode:
            return 0
        tables = status(pipeline)["tables"]
        return int(tables[0]["published_ranges"]) if tables else 0

    eventually(published, "a range published")
    replicator.kill()
    told = status(pipeline)
    (table,) = told["tables"]
    assert 0 < table["published_ranges"] < table["ranges"]
    counted = ("waiting_ranges", "copying_ranges", "published_ranges")
    assert sum(table[name] for name in counted) == table["ranges"]
    assert table["applied"] == {}
    held = pipeline.source.value(
        "SELECT pid FROM pg_stat_activity WHERE application_name = %s",
        [f"pgflo_{pipeline.group} snapshot"],
    )
    assert told["holder"]["backend_pid"] == held
    assert psutil.Process(told["holder"]["pid"]).is_running()
    shown = pgflo("status", "--group", pipeline.group, "--nats-url", pipeline.nats_url).stdout
    assert f"held by session {held} of the source" in shown


def test_status_sees_a_sink_fall_behind_and_catch_up(running: Pipeline) -> None:
    worker = running.commands[-1]
    worker.stop()
    running.source.execute("UPDATE a SET name = repeat('x', 100)")

    def behind() -> dict[str, Any] | None:
        sink: dict[str, Any] = status(running, "--source", running.source_dsn)["sinks"][0]
        return sink if sink["lag_s"] and sink["lag_bytes"] > 100_000 else None

    eventually(behind, "a lag")
    running.worker()
    running.wait_caught_up()
    eventually(lambda: status(running)["sinks"][0]["lag_s"] == 0.0, "no lag")


def test_status_for_people_shows_the_same(running: Pipeline) -> None:
    done = pgflo(
        *("status", "--group", running.group, "--nats-url", running.nats_url),
        *("--source", running.source_dsn),
    )
    assert done.returncode == 0
    for word in (running.group, "streaming", "public.a", "5,000", "postgres", "is active"):
        assert word in done.stdout
    assert done.stderr == ""


def test_watch_repeats_until_ctrl_c(running: Pipeline) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-m", "pgflo", "status", "--watch", "--json"],
        env=running.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watch.stdout is not None
    for _ in range(2):
        assert json.loads(watch.stdout.readline())["group"] == running.group
    watch.send_signal(signal.SIGINT)
    assert watch.wait(20) == Exit.INTERRUPTED
    _, said = watch.communicate()
    assert "Traceback" not in said


def test_status_of_a_group_that_does_not_exist_is_an_error(pipeline: Pipeline) -> None:
    done = pgflo("status", "--group", "nobody", "--nats-url", pipeline.nats_url)
    assert done.returncode == Exit.USAGE
    assert "group.unknown" in done.stderr


def owned(pipeline: Pipeline) -> tuple[int, int]:
    """Count the slots and publications of the source."""
    slots = pipeline.source.value(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s",
        (f"pgflo_{pipeline.group}",),
    )
    return int(slots), int(pipeline.source.value("SELECT count(*) FROM pg_publication"))


def test_drop_refuses_while_the_group_runs_then_lists_and_removes_all_of_it(
    running: Pipeline,
) -> None:
    flags = ("--group", running.group, "--nats-url", running.nats_url)
    source = ("--source", running.source_dsn)
    busy = pgflo("drop", *flags, *source, "--yes")
    assert busy.returncode == Exit.RUNNING, busy.stderr
    assert owned(running) == (1, 1)
    for command in running.commands:
        assert command.stop() == Exit.DONE
    asked = pgflo("drop", *flags, *source)
    assert asked.returncode == Exit.USAGE
    assert "Add --yes" in asked.stderr
    assert owned(running) == (1, 1)
    done = pgflo("drop", *flags, *source, "--yes")
    assert done.returncode == Exit.DONE, done.stderr
    for what in (f"slot pgflo_{running.group}", "publication", "stream", "record"):
        assert what in done.stderr
    assert done.stdout == ""
    assert owned(running) == (0, 0)
    assert pgflo("status", *flags).returncode == Exit.USAGE
    again = pgflo("drop", *flags, *source, "--yes")
    assert again.returncode == Exit.DONE
    assert "owns nothing" in again.stderr
    assert running.target.value("SELECT count(*) FROM a") == 5000


def test_drop_removes_the_embedded_broker_with_its_directory(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.source.execute("CREATE TABLE a (id int PRIMARY KEY)")
    environment = {
        name: value for name, value in pipeline.environment().items() if name != "PG_FLO_NATS_URL"
    }
    log = tmp_path / "own.log"
    command = Command(["replicate", "--stream"], environment, log)
    pipeline.commands.append(command)
    home = tmp_path / "state" / pipeline.group
    eventually(lambda: "group created" in log.read_text(), "the group")
    command.kill()
    wanted = {name: value for name, value in environment.items() if name.startswith("PG_FLO")}
    done = pgflo("drop", "--yes", **wanted)
    assert done.returncode == Exit.DONE, done.stderr
    assert str(home) in done.stderr
    assert not home.exists()
    assert owned(pipeline) == (0, 0)


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedPostgres]:
    """Give a server that wants a password."""
    with EmbeddedPostgres(
        throw_away_directory("pgflo-test-"), password=CANARY, throw_away=True
    ) as server:
        server.create_database("shop")
        yield server


def test_libpq_finds_the_password_where_it_always_does(
    guarded: EmbeddedPostgres, tmp_path: Path
) -> None:
    passfile, service = tmp_path / "pgpass", tmp_path / "service.conf"
    passfile.write_text(f"127.0.0.1:{guarded.port}:*:postgres:{CANARY}\n")
    passfile.chmod(0o600)
    service.write_text(
        f"[both]\nhost=127.0.0.1\nport={guarded.port}\ndbname=shop\nuser=postgres\npassword={CANARY}\n"
    )
    place = ("--host", "127.0.0.1", "--port", str(guarded.port), "--dbname", "shop")
    target = tuple(flag.replace("--", "--target-") for flag in place)
    users = ("--user", "postgres", "--target-user", "postgres")
    everywhere = (*place, *target, *users)
    ways: list[tuple[tuple[str, ...], dict[str, str]]] = [
        (everywhere, {"PGPASSWORD": CANARY}),
        (everywhere, {"PGPASSFILE": str(passfile)}),
        (everywhere, {"PG_FLO_PASSWORD": CANARY, "PG_FLO_TARGET_PASSWORD": CANARY}),
        ((), {"PGSERVICE": "both", "PGSERVICEFILE": str(service)}),
        (
            ("--source", "service=both", "--target", "service=both"),
            {"PGSERVICEFILE": str(service)},
        ),
    ]
    with_table = guarded.dsn("shop")
    import psycopg

    with psycopg.connect(with_table, autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS a (x int)")
    for flags, environment in ways:
        done = pgflo("compare", "--tables", "a", *flags, **environment)
        assert done.returncode == 0, (flags, done.stderr)
        assert CANARY not in done.stdout + done.stderr


def test_a_password_among_the_arguments_works_and_is_warned_of(guarded: EmbeddedPostgres) -> None:
    place = ("--host", "127.0.0.1", "--port", str(guarded.port), "--dbname", "shop")
    done = pgflo(
        *("drop", "--group", "g", "--yes", *place, "--user", "postgres", "--password", CANARY)
    )
    assert done.returncode == 0, done.stderr
    assert "process list" in done.stderr
    assert "PG_FLO_PASSWORD" in done.stderr
    assert CANARY not in done.stderr


BROKEN: list[tuple[str, ...]] = [
    ("replicate", "--source", f"postgres://u:{CANARY}@127.0.0.1:1/d"),
    ("replicate", "--source", f"host=127.0.0.1 port=1 dbname=d password={CANARY}"),
    ("replicate", "--source", f"postgres://u:{CANARY}@127.0.0.1:x/d"),
    ("replicate", "--source", "dbname=d", "--nats-url", f"nats://u:{CANARY}@127.0.0.1:1"),
    ("replicate", "--source", "dbname=d", "--nats-url", f"nats://{CANARY}@127.0.0.1:1"),
    ("replicate", "--source", "dbname=d", "--nats-url", f"htp://{CANARY}:{CANARY}@"),
    ("worker", "postgres", "--target", f"postgres://u:{CANARY}@127.0.0.1:1/d"),
    ("run", "--source", "dbname=d", "--target", f"postgres://u:{CANARY}@127.0.0.1:1/d?x={CANARY}"),
    ("drop", "--yes", "--source", f"postgres://u:{CANARY}@127.0.0.1:1/d"),
    ("status", "--nats-url", f"nats://u:{CANARY}@127.0.0.1:1"),
    ("compare", "--source", f"postgres://u:{CANARY}@127.0.0.1:1/d", "--target", "dbname=d"),
]


@pytest.mark.parametrize("arguments", BROKEN, ids=lambda arguments: " ".join(arguments)[:60])
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_failing_command_shows_a_password_even_when_it_is_verbose(
    arguments: tuple[str, ...], log_format: str, tmp_path: Path
) -> None:
    done = pgflo(
        *(*arguments, "--group", "g", "-v", "--log-format", log_format),
        PG_FLO_STATE_DIR=str(tmp_path),
        PG_FLO_RETRY_MAX_ATTEMPTS="1",
    )
    assert done.returncode not in (0, Exit.INTERNAL), done.stderr
    assert CANARY not in done.stdout + done.stderr


def test_a_secret_file_serves_flags_and_environment(
    guarded: EmbeddedPostgres, tmp_path: Path
) -> None:
    secret = tmp_path / "dsn"
    secret.write_text(guarded.dsn("shop") + "\n")
    done = pgflo("drop", "--group", "g", "--yes", "--source", f"file://{secret}")
    assert done.returncode == 0, done.stderr
    done = pgflo("drop", "--group", "g", "--yes", PG_FLO_SOURCE=f"file://{secret}")
    assert done.returncode == 0, done.stderr
    done = pgflo("drop", "--group", "g", "--yes", PG_FLO_SOURCE=f"file://{secret}.not")
    assert done.returncode == Exit.USAGE
    assert "cannot read the secret" in done.stderr
