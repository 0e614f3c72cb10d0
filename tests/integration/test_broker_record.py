"""The group's record and the leases in it."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from tests.fix_broker import LIMIT_S

from pgflo.broker.lease import EXPIRES_S, Lease, LeaseRecord
from pgflo.broker.record import (
    ColumnRecord,
    CopiedRecord,
    GroupRecord,
    Phase,
    Record,
    SinkRecord,
    SnapshotRecord,
    TableRecord,
    TableState,
)
from pgflo.errors import (
    BROKER_RECORD,
    BROKER_SETTINGS,
    CONFIG,
    GROUP_CHANGED,
    GROUP_RUNNING,
    PgfloError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.fix_broker import OpenBroker
    from tests.fix_nats import NatsFactory
    from tests.fix_proxy import ProxyFactory

    from pgflo.broker.connection import Broker
    from pgflo.embedded import EmbeddedNats

GROUP = GroupRecord(
    incarnation="5f0c9a12-0000-4000-8000-000000000000",
    system_id="7312345678901234567",
    timeline=1,
    database="shop",
    slot="pgflo_g",
    publications=["pgflo_g"],
    options={"proto_version": "1"},
    mode="copy-and-stream",
    start_lsn=2**64 - 1,
    phase=Phase.COPYING,
    tables=[16400],
    lanes=4,
    snapshot=SnapshotRecord("00000003-00000002-1", 2**40, 17, "2026-01-01 00:00:00+00", 18, "h"),
)
TABLE = TableRecord(
    oid=16400,
    schema="Odd schema",
    name="tä.ble",
    root=("public", "root"),
    columns=[ColumnRecord("id", 20, "bigint", -1)],
    key=["id"],
    identity="d",
    state=TableState.COPYING,
    published=[(0, 3), (5, 6)],
)
SINK = SinkRecord("postgres", "postgres", GROUP.incarnation, 1, 2, 3, "streaming", {3: 17})


@pytest.fixture
async def record(broker: Broker) -> Record:
    opened = await Record.open(broker, "g", create=True)
    assert opened is not None
    return opened


async def test_what_is_written_is_read_back(record: Record) -> None:
    assert await record.group() is None
    assert await record.tables() == {}
    revision = await record.put_group(GROUP, None)
    assert await record.group() == (GROUP, revision)
    tables = {oid: dataclasses.replace(TABLE, oid=oid) for oid in range(16400, 16500)}
    for table in tables.values():
        await record.put_table(table)
    assert await record.tables() == tables
    other = dataclasses.replace(SINK, name="other-1", lane_seqs={})
    await record.put_sink(SINK)
    await record.put_sink(other)
    assert await record.sinks() == {"postgres": SINK, "other-1": other}
    copied = CopiedRecord("postgres", 16400, [0, 1, 5], 12)
    await record.put_copied(copied)
    await record.put_copied(CopiedRecord("other-1", 16400, [0], 3))
    assert await record.copied("postgres") == {16400: copied}
    await record.drop_sink("postgres")
    await record.drop_sink("postgres")
    assert await record.sinks() == {"other-1": other}
    assert await record.copied("postgres") == {}
    assert await record.copied("other-1") != {}


async def test_a_record_exists_from_its_creation_to_its_destruction(broker: Broker) -> None:
    assert await Record.open(broker, "g", create=False) is None
    record = await Record.open(broker, "g", create=True)
    assert record is not None
    assert await Record.open(broker, "g", create=False) is not None
    await record.destroy()
    await record.destroy()
    assert await Record.open(broker, "g", create=False) is None


async def test_of_two_who_change_the_group_the_slower_one_is_told(record: Record) -> None:
    first = await record.put_group(GROUP, None)
    with pytest.raises(PgfloError) as creating:
        await record.put_group(dataclasses.replace(GROUP, mode="stream"), None)
    assert creating.value.kind is GROUP_CHANGED
    await record.put_group(dataclasses.replace(GROUP, phase=Phase.STREAMING), first)
    with pytest.raises(PgfloError) as changing:
        await record.put_group(dataclasses.replace(GROUP, phase=Phase.DONE), first)
    assert changing.value.kind is GROUP_CHANGED
    kept = await record.group()
    assert kept is not None
    assert kept[0].phase is Phase.STREAMING


@pytest.mark.parametrize(
    "value", [b"", b"no json", b"[1]", b'{"incarnation":5}', b"\xff\xfe", b'{"phase":"odd"}']
)
async def test_what_is_not_ours_is_an_error_that_names_the_key(
    record: Record, value: bytes
) -> None:
    await record.write("group", value)
    with pytest.raises(PgfloError) as caught:
        await record.group()
    assert caught.value.kind is BROKER_RECORD
    assert "group" in caught.value.detail
    await record.write("table.16400", value)
    with pytest.raises(PgfloError) as caught:
        await record.tables()
    assert "table.16400" in caught.value.detail


async def test_fields_of_a_later_version_are_passed_over(record: Record) -> None:
    await record.write("group", GROUP.to_json()[:-1] + b',"news":{"a":[1]}}')
    read = await record.group()
    assert read is not None
    assert read[0] == GROUP


@pytest.mark.parametrize("name", ["", "a.b", "a b", "*", ">", "x" * 41, "ä"])
async def test_a_sink_name_that_cannot_be_a_key_is_refused(record: Record, name: str) -> None:
    with pytest.raises(PgfloError) as caught:
        await record.put_sink(dataclasses.replace(SINK, name=name))
    assert caught.value.kind is CONFIG


async def test_a_bucket_that_forgets_is_refused(broker: Broker) -> None:
    await broker.js.create_key_value(bucket="pgflo_g", ttl=60)
    with pytest.raises(PgfloError) as caught:
        await Record.open(broker, "g", create=True)
    assert caught.value.kind is BROKER_SETTINGS
    assert "max_age" in caught.value.detail


async def keys_until(watch: AsyncIterator[str], last: str) -> list[str]:
    keys: list[str] = []
    async with asyncio.timeout(LIMIT_S):
        while last not in keys:
            keys.append(await anext(watch))
    return keys


async def test_a_watch_gives_what_is_there_and_then_each_change(record: Record) -> None:
    await record.put_group(GROUP, None)
    await record.put_table(TABLE)
    watch = record.watch()
    assert await keys_until(watch, "table.16400") == ["group", "table.16400"]
    await record.put_sink(SINK)
    assert await keys_until(watch, "sink.postgres") == ["sink.postgres"]
    await record.drop_sink("postgres")
    assert await keys_until(watch, "sink.postgres") == ["sink.postgres"]
    await watch.aclose()


async def test_a_watch_goes_on_through_restarts_and_an_older_copy_of_the_store(
    nats_factory: NatsFactory, open_broker: OpenBroker
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    record = await Record.open(broker, "g", create=True)
    assert record is not None
    await record.put_group(GROUP, None)
    watch = record.watch()
    assert await keys_until(watch, "group") == ["group"]
    store, older = server.directory / "jetstream", server.directory / "older"
    await asyncio.to_thread(server.kill)
    shutil.copytree(store, older)
    await asyncio.to_thread(server.start)
    await record.put_table(TABLE)
    assert await keys_until(watch, "table.16400") == ["table.16400"]
    await asyncio.to_thread(server.kill)
    shutil.rmtree(store)
    older.rename(store)
    await asyncio.to_thread(server.start)
    assert await keys_until(watch, "group") == ["group"]
    await record.put_sink(SINK)
    assert (await keys_until(watch, "sink.postgres"))[-1] == "sink.postgres"
    await watch.aclose()


async def test_writes_wait_for_a_broker_that_restarts(
    nats_factory: NatsFactory, open_broker: OpenBroker
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    record = await Record.open(broker, "g", create=True)
    assert record is not None
    revision = await record.put_group(GROUP, None)
    await asyncio.to_thread(server.kill)
    writing = asyncio.gather(
        record.put_table(TABLE),
        record.put_group(dataclasses.replace(GROUP, phase=Phase.DONE), revision),
    )
    await asyncio.to_thread(server.start)
    await writing
    assert await record.tables() == {16400: TABLE}
    read = await record.group()
    assert read is not None
    assert read[0].phase is Phase.DONE


async def test_a_change_whose_answer_is_lost_counts_as_made(
    nats_server: EmbeddedNats,
    broker: Broker,
    open_broker: OpenBroker,
    tcp_proxy: ProxyFactory,
    record: Record,
) -> None:
    proxy = tcp_proxy("127.0.0.1", nats_server.port)
    through_proxy = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    mine = await Record.open(through_proxy, "g", create=False)
    assert mine is not None
    revision = await mine.put_group(GROUP, None)
    await asyncio.to_thread(proxy.hold_responses)
    writing = asyncio.create_task(
        mine.put_group(dataclasses.replace(GROUP, phase=Phase.DONE), revision)
    )
    async with asyncio.timeout(LIMIT_S):
        while (read := await record.group()) is None or read[0].phase is not Phase.DONE:
            assert not writing.done()
    await asyncio.to_thread(proxy.cut)
    await asyncio.to_thread(proxy.resume)
    assert await writing == read[1]
    assert broker.is_connected


HOLDER = """
import asyncio, sys
from pgflo.broker.connection import connect
from pgflo.broker.lease import Lease
from pgflo.broker.record import Record
from pgflo.config.settings import NatsSettings

async def main() -> None:
    broker = await connect(NatsSettings(url=sys.argv[1]), name="holder")
    record = await Record.open(broker, "g", create=True)
    lease = await Lease.acquire(record, "replicator", wait=False)
    print("held", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await lease.release()
    await broker.close()

asyncio.run(main())
"""


@pytest.fixture
def holder(nats_url: str, record: Record) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the replicator's lease, until its standard input ends."""
    assert record.group_name == "g"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, nats_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


async def test_a_lease_that_is_held_is_refused_at_once_with_the_holders_pid(
    record: Record, holder: subprocess.Popen[str]
) -> None:
    began = time.monotonic()
    with pytest.raises(PgfloError) as caught:
        await Lease.acquire(record, "replicator", wait=False)
    assert caught.value.kind is GROUP_RUNNING
    assert caught.value.exit_code == 8
    assert str(holder.pid) in caught.value.detail
    assert time.monotonic() - began < 2
    other = await Lease.acquire(record, "sink.postgres", wait=False)
    await other.release()


async def test_the_lease_of_a_killed_process_is_taken_over_at_once(
    record: Record, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    began = time.monotonic()
    lease = await Lease.acquire(record, "replicator", wait=False)
    assert time.monotonic() - began < 2
    await lease.release()


async def test_who_waits_gets_the_lease_when_the_holder_ends(
    record: Record, holder: subprocess.Popen[str]
) -> None:
    waiting = asyncio.create_task(Lease.acquire(record, "replicator", wait=True))
    done, _ = await asyncio.wait([waiting], timeout=1.0)
    assert not done
    assert holder.stdin is not None
    holder.stdin.close()
    lease = await asyncio.wait_for(waiting, LIMIT_S)
    assert not lease.lost.is_set()
    await lease.release()


def elsewhere(renewals: int) -> bytes:
    """Write a lease as a process of another host would."""
    return LeaseRecord("somebody", "db7", "another boot", 4711, 1.0, renewals).to_json()


async def test_a_holder_that_is_alive_elsewhere_is_known_by_its_renewals(record: Record) -> None:
    await record.write("lease.replicator", elsewhere(0))
    acquiring = asyncio.create_task(Lease.acquire(record, "replicator", wait=False))
    done, _ = await asyncio.wait([acquiring], timeout=1.0)
    assert not done
    await record.write("lease.replicator", elsewhere(1))
    with pytest.raises(PgfloError) as caught:
        await asyncio.wait_for(acquiring, 2.0)
    assert caught.value.kind is GROUP_RUNNING
    assert "db7" in caught.value.detail


async def test_a_holder_that_fell_silent_is_replaced_and_notices_when_it_wakes(
    nats_server: EmbeddedNats, open_broker: OpenBroker, tcp_proxy: ProxyFactory, record: Record
) -> None:
    proxy = tcp_proxy("127.0.0.1", nats_server.port)
    through_proxy = await open_broker(f"nats://127.0.0.1:{proxy.port}")
    asleep = await Record.open(through_proxy, "g", create=False)
    assert asleep is not None
    held = await Lease.acquire(asleep, "replicator", wait=False)
    await asyncio.to_thread(proxy.refuse)
    silent_from = time.monotonic()
    heir = await Lease.acquire(record, "replicator", wait=True)
    assert EXPIRES_S - 1 < time.monotonic() - silent_from < EXPIRES_S + 5
    assert not held.lost.is_set()
    await asyncio.to_thread(proxy.resume)
    async with asyncio.timeout(LIMIT_S):
        await held.lost.wait()
    await held.release()
    assert not heir.lost.is_set()
    assert await record.read("lease.replicator") is not None
    await heir.release()
    assert await record.read("lease.replicator") is None


async def test_a_lease_outlives_a_restart_of_the_broker(
    nats_factory: NatsFactory, open_broker: OpenBroker
) -> None:
    server = nats_factory()
    broker = await open_broker(server.url)
    record = await Record.open(broker, "g", create=True)
    assert record is not None
    lease = await Lease.acquire(record, "replicator", wait=False)
    before = await record.read("lease.replicator")
    assert before is not None
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(LIMIT_S):
        watch = record.watch()
        assert await keys_until(watch, "lease.replicator") == ["lease.replicator"]
        while await record.read("lease.replicator") == before:
            await anext(watch)
        await watch.aclose()
    assert not lease.lost.is_set()
    await lease.release()
    assert await record.read("lease.replicator") is None
