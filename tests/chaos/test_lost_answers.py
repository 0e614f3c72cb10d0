"""Answers that never arrive, and a broker that forgets: nothing twice, lost or silent."""

from __future__ import annotations

import contextlib
import shutil
from functools import partial
from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.fix_pipeline import eventually
from tests.fix_postgres import Database

if TYPE_CHECKING:
    from pathlib import Path
    from typing import LiteralString

    from tests.fix_load import Load
    from tests.fix_nats import NatsFactory
    from tests.fix_pipeline import Command, Pipeline
    from tests.fix_postgres import PostgresFactory
    from tests.fix_proxy import ProxyFactory, TcpProxy

pytestmark = pytest.mark.timeout(600)

COMMIT_ANSWER = b"C\x00\x00\x00\x0bCOMMIT\x00"
"""CommandComplete of a COMMIT on the wire."""


def through(proxy: TcpProxy, dsn: str) -> str:
    """Let a connection string pass through `proxy`, without encryption so that it can be read."""
    return make_conninfo(
        dsn, host="127.0.0.1", hostaddr="127.0.0.1", port=proxy.port, sslmode="disable"
    )


def finish(pipeline: Pipeline, load: Load) -> None:
    """Stop writing, let everything arrive, compare."""
    load.stop()
    pipeline.wait_caught_up(limit_s=120)
    pipeline.assert_identical()


def test_lost_answer_to_commit_applies_nothing_twice(
    pipeline: Pipeline, load: Load, tcp_proxy: ProxyFactory
) -> None:
    # GIVEN a worker whose way to the destination passes a proxy
    load.create(rows=2000)
    load.start()
    proxy = tcp_proxy("127.0.0.1", pipeline.target.server.port)
    pipeline.replicate()
    direct, pipeline.target_dsn = pipeline.target_dsn, through(proxy, pipeline.target_dsn)
    pipeline.worker()
    pipeline.target_dsn = direct
    pipeline.wait_caught_up(limit_s=120)
    # WHEN the answer to a COMMIT is swallowed and the connection cut, three times
    for _ in range(3):
        swallowed = proxy.drop_responses_matching(lambda data: COMMIT_ANSWER in data)
        load.wait_committed(20)
        assert swallowed.wait(60), "no COMMIT was answered through the proxy"
        proxy.resume()
        load.wait_committed(20)
    # THEN every row is there exactly once
    finish(pipeline, load)


def test_commits_that_hang_for_a_standby_and_break_apply_nothing_twice(
    pipeline: Pipeline, load: Load, postgres_server: PostgresFactory, tcp_proxy: ProxyFactory
) -> None:
    # GIVEN a worker that streams to a server of its own, through a proxy
    server = postgres_server()
    server.create_database("standby")
    proxy = tcp_proxy("127.0.0.1", server.port)
    with contextlib.closing(Database(server, "standby")) as target:
        direct = target.dsn
        pipeline.target, pipeline.target_dsn = target, direct
        load.create(rows=2000)
        load.start()
        pipeline.replicate()
        pipeline.target_dsn = through(proxy, direct)
        worker = pipeline.worker()
        for broken in ("session", "link", "worker"):
            pipeline.target_dsn = direct
            pipeline.wait_caught_up(limit_s=120)
            # WHEN a COMMIT is done and waits for a standby that is away
            await_standby(target, "away")
            load.wait_committed(20)
            pid = eventually(lambda: waiting_for_standby(target), "a COMMIT that waits")
            logged = len(worker.log.read_text())
            # AND breaks, so that its answer is lost
            if broken == "session":
                before_lsn = pipeline.applied_lsn()
                target.rows("SELECT pg_terminate_backend(%s, 10000)", [pid])
                # What it did is there, and no later COMMIT can be.
                assert pipeline.applied_lsn() > before_lsn
                words = "trying again"
            elif broken == "link":
                proxy.cut()
                words = "trying again"
            else:
                worker.kill()
                pipeline.commands.remove(worker)
                pipeline.target_dsn = through(proxy, direct)
                worker = pipeline.worker()
                words = "commits at the destination wait for a synchronous standby"
            eventually(partial(says, worker, logged, words), words)
            # AND the standby is no longer asked for
            await_standby(target, "")
            load.wait_committed(20)
        # THEN every row is there exactly once, also of the table without a key
        pipeline.target_dsn = direct
        finish(pipeline, load)


def says(command: Command, logged: int, words: str) -> bool:
    """Whether a command says `words` behind the first `logged` characters of its log."""
    return words in command.log.read_text()[logged:]


def await_standby(target: Database, names: LiteralString) -> None:
    """Have commits wait for these synchronous standbys."""
    setting = sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(names)
    target.execute(setting, "SELECT pg_reload_conf()")


def waiting_for_standby(target: Database) -> int | None:
    """Give the pid of a writer whose COMMIT waits for a standby, None if there is none."""
    found = target.rows(
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        " AND application_name LIKE '%% shard0 %%'"
    )
    return found[0][0] if found else None


def test_lost_answer_to_publish_stores_nothing_twice(
    nats_factory: NatsFactory,
    tcp_proxy: ProxyFactory,
    pipeline: Pipeline,
    load: Load,
) -> None:
    # GIVEN a replicator whose way to the broker passes a proxy
    broker = nats_factory()
    load.create(rows=2000)
    load.start()
    proxy = tcp_proxy("127.0.0.1", broker.port)
    pipeline.nats_url = f"nats://127.0.0.1:{proxy.port}"
    pipeline.replicate()
    pipeline.nats_url = broker.url
    pipeline.worker()
    pipeline.wait_caught_up(limit_s=120)
    # WHEN the broker's answer to a publish is swallowed and the connection cut, three times
    for _ in range(3):
        swallowed = proxy.drop_responses_matching(lambda data: b'"stream":"pgflo_' in data)
        load.wait_committed(20)
        assert swallowed.wait(60), "no publish was acknowledged through the proxy"
        proxy.resume()
        load.wait_committed(20)
    # THEN every row is there exactly once
    finish(pipeline, load)


def test_lost_status_message_repeats_nothing(
    pipeline: Pipeline, load: Load, tcp_proxy: ProxyFactory
) -> None:
    # GIVEN a replicator whose way to the source passes a proxy
    load.create(rows=2000)
    load.start()
    proxy = tcp_proxy("127.0.0.1", pipeline.source.server.port)
    direct, pipeline.source_dsn = pipeline.source_dsn, through(proxy, pipeline.source_dsn)
    pipeline.replicate("--confirm-after", "broker")
    pipeline.source_dsn = direct
    pipeline.worker()
    pipeline.wait_caught_up(limit_s=120)
    # WHEN the connection is cut in the middle of the stream, with statuses under way
    for _ in range(3):
        load.wait_committed(30)
        proxy.cut()
        proxy.resume()
        load.wait_committed(10)
    # THEN every row is there exactly once
    finish(pipeline, load)


def test_broker_with_an_older_store_is_noticed_and_loses_nothing(
    nats_factory: NatsFactory, pipeline: Pipeline, load: Load, tmp_path: Path
) -> None:
    # GIVEN a copy of the broker's store from some transactions ago
    broker = nats_factory()
    store = broker.directory / "jetstream"
    pipeline.nats_url = broker.url
    load.create(rows=2000)
    load.start()
    replicator, _ = pipeline.replicate(), pipeline.worker()
    pipeline.wait_caught_up(limit_s=120)
    broker.stop()
    shutil.copytree(store, tmp_path / "older", symlinks=True)
    broker.start()
    load.wait_committed(100)
    pipeline.wait_caught_up(limit_s=120)
    load.wait_committed(100)
    # WHEN the broker comes back with that copy
    broker.kill()
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "older", store, symlinks=True)
    broker.start()
    # THEN it is noticed, and what the slot no longer has the sink has: everything goes on
    eventually(lambda: "went_back" in replicator.log.read_text(), "the loss to be noticed")
    finish(pipeline, load)


def test_source_stops_fast_while_a_replicator_is_connected(
    pipeline: Pipeline, load: Load, postgres_server: PostgresFactory
) -> None:
    # GIVEN a group that streams from a server of its own
    server = postgres_server()
    server.create_database("fast_stop")
    database = Database(server, "fast_stop")
    pipeline.source, pipeline.source_dsn = database, database.dsn
    load.create(rows=2000)
    load.start()
    pipeline.replicate()
    pipeline.worker()
    pipeline.wait_caught_up(limit_s=120)
    load.stop()
    database.close()
    # WHEN that server is told to stop, as `pg_ctl stop -m fast` does, THEN it ends in seconds
    server.stop("fast", timeout_s=10)
    # AND after its return everything goes on
    server.start()
    load.start()
    load.wait_committed(20)
    finish(pipeline, load)
