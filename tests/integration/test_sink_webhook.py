"""A receiver that fails, hangs, refuses or is cut off loses nothing and sees the same again."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from email.utils import formatdate
from time import monotonic, time
from typing import TYPE_CHECKING

from standardwebhooks import Webhook
from tests.fix_sinks import cut, hang, source_rows, status, take, wait_end, wait_for

from pgflo.errors import Exit

if TYPE_CHECKING:
    import pytest
    from tests.fix_sinks import Event, ToWebhook
    from tests.fix_stream import Stream

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of this test alone
TABLE = "CREATE TABLE t (id int PRIMARY KEY, n int)"


async def publish(stream: Stream, *statements: str) -> None:
    for statement in statements:
        stream.changes.source._own().execute(statement.encode())
    await stream.publish(stream.changes.envelopes())


def by_key(events: list[Event]) -> dict[str, list[tuple[str, int]]]:
    """Give where the changes of each key stand, in the order in which they came."""
    found = defaultdict(list)
    for event in events:
        found[str(event["key"])].append((event["commit_lsn"], event["ordinal"]))
    return found


async def test_whatever_heals_is_tried_again_with_the_same_id_and_body(
    to_webhook: ToWebhook, stream: Stream
) -> None:
    receiver = to_webhook.receiver
    receiver.answers = [
        *(status(500), cut, status(429, Retry_After="1"), take, status(503), hang, status(408)),
        *(take, status(429, Retry_After=formatdate(time() + 1.5, usegmt=True))),
    ]
    await publish(stream, TABLE, "INSERT INTO t SELECT n, n FROM generate_series(1, 5) n")
    started = monotonic()
    flags = ("--webhook-timeout", "1s", "--webhook-secret", SECRET)
    assert await asyncio.to_thread(to_webhook.run, *flags) == 0
    assert monotonic() - started > 2.0  # it waited as it was asked to
    # THEN each came until it was taken, unchanged and signed
    bodies = defaultdict(set)
    for identity, body, headers in receiver.seen:
        bodies[identity].add(body)
        Webhook(SECRET).verify(body.decode(), headers)
        assert headers["content-type"] == "application/json"
    assert len(receiver.seen) == 5 + 7
    assert all(len(same) == 1 for same in bodies.values())
    assert [event["id"] for event in to_webhook.events()] == list(bodies)
    assert to_webhook.rows("t") == source_rows(stream.changes.source, "t")


async def test_any_other_answer_stops_it_with_what_it_said_and_it_goes_on_there(
    to_webhook: ToWebhook, stream: Stream
) -> None:
    receiver = to_webhook.receiver
    await publish(stream, TABLE, "INSERT INTO t SELECT n, n FROM generate_series(1, 3) n")
    for answer in (status(413, b"too large " * 100), status(302, Location=receiver.url)):
        receiver.answers = [take, answer] if not receiver.taken else [answer]
        assert await asyncio.to_thread(to_webhook.run) == Exit.SINK
    told = to_webhook.tail()
    assert "answered 413" in told
    assert "too large " * 50 in told
    assert "too large " * 51 not in told
    assert "answered 302" in told
    # Not followed: one request for each run and answer.
    assert len(receiver.seen) == 3
    assert await asyncio.to_thread(to_webhook.run) == 0
    assert to_webhook.rows("t") == source_rows(stream.changes.source, "t")


async def test_it_gives_up_after_as_many_attempts_as_it_is_told(
    to_webhook: ToWebhook, stream: Stream
) -> None:
    to_webhook.receiver.answers = [status(500)] * 9
    await publish(stream, TABLE, "INSERT INTO t VALUES (1, 1)")
    assert await asyncio.to_thread(to_webhook.run, "--retry-max-attempts", "3") == Exit.SINK
    assert len(to_webhook.receiver.seen) == 3
    assert "sink.receiver" in to_webhook.tail()


async def test_a_proxy_of_the_environment_is_used_but_for_hosts_that_are_left_out(
    to_webhook: ToWebhook, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = to_webhook.receiver
    await publish(stream, TABLE, "INSERT INTO t VALUES (1, 1)")
    # The receiver stands in for a proxy: that one gets the whole address, and answers for it.
    monkeypatch.setenv("http_proxy", receiver.url.removesuffix("/hook").removeprefix("http://"))
    elsewhere = ("--webhook-url", "http://elsewhere.invalid/hook")
    assert await asyncio.to_thread(to_webhook.run, *elsewhere) == 0
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    await publish(stream, "INSERT INTO t VALUES (2, 2)")
    assert await asyncio.to_thread(to_webhook.run) == 0
    hosts = [headers["Host"] for _, _, headers in receiver.seen]
    assert hosts == ["elsewhere.invalid", receiver.url.split("/")[2]]
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    monkeypatch.delenv("no_proxy")
    assert await asyncio.to_thread(to_webhook.run) == Exit.USAGE
    assert "http_proxy names a proxy" in to_webhook.tail()


async def test_requests_side_by_side_keep_the_order_of_each_key(
    to_webhook: ToWebhook, stream: Stream
) -> None:
    chance = random.Random(1)
    to_webhook.receiver.answers = [
        chance.choice([take, take, take, status(503), cut]) for _ in range(300)
    ]
    updates = ("UPDATE t SET n = n + 1 WHERE id % 3 <> 0",) * 10
    await publish(
        stream,
        *(TABLE, "INSERT INTO t SELECT n, n FROM generate_series(1, 20) n", *updates),
        *("UPDATE t SET id = id + 10 WHERE id > 15", *updates),
        *("TRUNCATE t", "INSERT INTO t VALUES (1, 1)", "UPDATE t SET n = 2"),
    )
    flags = ("--webhook-concurrency", "8", "--webhook-batch", "3")
    assert await asyncio.to_thread(to_webhook.run, *flags) == 0
    events = to_webhook.events()
    assert len({event["id"] for event in events}) == len(events) > 250
    rows = [event for event in events if "key" in event]
    for places in by_key(rows).values():
        assert places == sorted(places)
    # The key that moved and the truncate stood alone: the whole folds to what the source has.
    assert to_webhook.rows("t") == source_rows(stream.changes.source, "t")


async def test_one_sink_that_hangs_holds_back_no_other_and_can_be_dropped(
    to_webhook: ToWebhook, stream: Stream
) -> None:
    from tests.fix_sinks import ToFile
    from tests.integration.test_cli_commands import pgflo

    beside = ToFile(stream, to_webhook.directory)
    beside.log = to_webhook.directory / "file.log"
    to_webhook.receiver.answers = [hang] * 100
    await publish(stream, TABLE, "INSERT INTO t SELECT n, n FROM generate_series(1, 9) n")
    hanging = to_webhook.start()
    await asyncio.to_thread(wait_for, lambda: bool(to_webhook.receiver.seen), "a request")
    assert await asyncio.to_thread(beside.run) == 0, beside.tail()
    assert beside.rows("t") == source_rows(stream.changes.source, "t")
    # WHEN it is asked for, status shows both
    place = ("--group", "g", "--nats-url", stream.broker.settings.url or "")
    told = await asyncio.to_thread(pgflo, "status", *place, "--json")
    assert '"name":"file","kind":"file","phase":"done"' in told.stdout
    assert '"name":"webhook","kind":"webhook","phase":"streaming"' in told.stdout
    # THEN the one that runs cannot be dropped; when it is gone, it can
    drop = ("drop", *place, "--sink", "webhook")
    assert (await asyncio.to_thread(pgflo, *drop, "--yes")).returncode == Exit.RUNNING
    hanging.kill()
    await asyncio.to_thread(wait_end, hanging)
    assert (await asyncio.to_thread(pgflo, *drop)).returncode == Exit.USAGE
    assert (await asyncio.to_thread(pgflo, *drop, "--yes")).returncode == 0
    assert list(await stream.record.sinks()) == ["file"]
