"""Fixture `stream`: a group in the broker whose envelopes the test publishes, and its worker.

Neighbours: `fix_changes` cuts real changes into envelopes, `pgflo.worker` applies them. Takes the
replicator's place, so that a test can leave gaps, repeat, re-cut and break off as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgflo import _core
from pgflo.broker.connection import connect
from pgflo.broker.names import Names
from pgflo.broker.record import Record
from pgflo.broker.records import (
    ColumnRecord,
    GroupRecord,
    Phase,
    TableRecord,
    TableState,
    TypeRecord,
)
from pgflo.broker.topology import create_streams
from pgflo.config.settings import NatsSettings, RetrySettings, WorkerSettings
from pgflo.source import own_types
from pgflo.worker.run import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from tests.fix_changes import Changes
    from tests.fix_postgres import Database

    from pgflo.broker.connection import Broker
    from pgflo.broker.records import SinkRecord

LIMIT_S = 60.0
LOOK_S = 0.02


class Stream:
    """One group as its replicator would keep it."""

    def __init__(
        self, broker: Broker, record: Record, changes: Changes, target: Database, state_dir: Path
    ) -> None:
        self.broker = broker
        self.record = record
        self.changes = changes
        self.target = target
        self.names = Names(record.group_name, changes.incarnation)
        self.group = GroupRecord(
            incarnation=str(changes.incarnation),
            system_id="1",
            timeline=1,
            database=changes.source.name,
            slot="",
            publications=[],
            options={},
            mode="stream",
            start_lsn=changes.start_lsn,
            phase=Phase.STREAMING,
        )
        self._revision: int | None = None
        self._state_dir = state_dir
        self._dsn = target.dsn

    async def announce(self, **fields: Any) -> None:  # noqa: ANN401 - fields of GroupRecord
        """Write the group's record with these fields changed."""
        self.group = replace(self.group, **fields)
        self._revision = await self.record.put_group(self.group, self._revision)

    async def begin_anew(self, changes: Changes) -> None:
        """Write the record of a new incarnation and make its streams."""
        self.changes = changes
        self.names = Names(self.record.group_name, changes.incarnation)
        await create_streams(self.broker, self.names, self.broker.settings, copy=True)
        await self.announce(
            incarnation=str(changes.incarnation), start_lsn=changes.start_lsn, phase=Phase.STREAMING
        )

    def log(self, number: int, times: int = 1) -> None:
        """Insert rows into table `log` at the source, in one transaction."""
        self.changes.source.execute(
            sql.SQL("INSERT INTO log SELECT {} FROM generate_series(1, {})").format(number, times)
        )

    async def describe(
        self, *tables: str, ranges: int, snapshot_lsn: int | None = None
    ) -> dict[str, int]:
        """Write the records of tables that are to be copied; give their OIDs.

        They are the group's tables then, unless they have a snapshot of their own.
        """
        oids = {}
        for name in tables:
            source = self.changes.source
            oids[name] = oid = source.value("SELECT %s::regclass::oid::bigint", [name])
            columns = source.rows(
                "SELECT attname, atttypid::bigint, format_type(atttypid, atttypmod), atttypmod"
                " FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND attgenerated = ''"
                " ORDER BY attnum",
                [oid],
            )
            await self.record.put_table(
                TableRecord(
                    oid=oid,
                    schema="public",
                    name=name,
                    root=None,
                    columns=[ColumnRecord(*column) for column in columns],
                    key=self._key(oid),
                    identity="d",
                    state=TableState.PUBLISHED,
                    snapshot_lsn=snapshot_lsn or self.changes.start_lsn,
                    ranges=ranges,
                    types=await self._types(oid),
                )
            )
        if snapshot_lsn is None:
            await self.announce(mode="copy-and-stream", tables=sorted(oids.values()), lanes=1)
        return oids

    async def _types(self, oid: int) -> list[TypeRecord]:
        async with await psycopg.AsyncConnection.connect(self.changes.source.dsn) as conn:
            found = await own_types.describe(conn, [oid])
        return [TypeRecord(**asdict(made)) for made in found.get(oid, ())]

    def _key(self, oid: int) -> list[str]:
        found = self.changes.source.rows(
            "SELECT attname::text FROM pg_attribute a JOIN pg_index i ON i.indrelid = a.attrelid"
            " AND a.attnum = ANY (i.indkey) WHERE i.indisprimary AND a.attrelid = %s",
            [oid],
        )
        return [name for (name,) in found]

    async def publish(self, envelopes: Iterable[_core.Envelope | bytes]) -> None:
        """Store envelopes in the change stream as they are."""
        for envelope in envelopes:
            data = envelope if isinstance(envelope, bytes) else envelope.data
            await self.broker.js.publish(self.names.changes_subject, data)

    async def publish_range(
        self, oid: int, range_no: int, rows: bytes, row_count: int, **options: int
    ) -> list[bytes]:
        """Store one attempt at a range in lane 0; `parts` cuts it, `skip` leaves a part out."""
        envelopes = self.pack(oid, range_no, rows, row_count, **options)
        for number, data in enumerate(envelopes):
            if number != options.get("skip", -1):
                await self.broker.js.publish(self.names.copy_subject(0), data)
        return envelopes

    def pack(
        self, oid: int, range_no: int, rows: bytes, row_count: int, **options: int
    ) -> list[bytes]:
        """Pack one attempt at a range."""
        packer = _core.CopyPacker(
            self.changes.incarnation.bytes,
            oid,
            options.get("snapshot_lsn", self.changes.start_lsn),
            range_no,
            options.get("attempt", 1),
            target_body_bytes=options.get("body_bytes", 4096),
            max_body_bytes=max(1024, options.get("body_bytes", 4096)),
        )
        return [*packer.feed(rows, row_count), packer.finish()]

    def settings(self, **fields: Any) -> WorkerSettings:  # noqa: ANN401 - fields of WorkerSettings
        """Give a worker's settings, impatient ones."""
        values: dict[str, Any] = {
            "group": self.record.group_name,
            "target": self._dsn,
            "nats": self.broker.settings,
            "retry": RetrySettings(initial_wait_s=0.05, max_wait_s=0.2),
            "state_dir": self._state_dir,
            **fields,
        }
        return WorkerSettings(**values)

    def through(self, port: int) -> None:
        """Reach the destination through another port."""
        self._dsn = make_conninfo(self._dsn, port=port)

    def as_user(self, name: str) -> None:
        """Reach the destination as another role."""
        self._dsn = self.target.server.dsn(self.target.name, name)

    @contextlib.asynccontextmanager
    async def worker(self, **fields: Any) -> AsyncIterator[asyncio.Task[None]]:  # noqa: ANN401
        """Run a worker in this process; at the end it is asked to stop, and must end well."""
        stop = asyncio.Event()
        task = asyncio.create_task(run(self.settings(**fields), stop))
        try:
            yield task
        finally:
            stop.set()
            async with asyncio.timeout(LIMIT_S):
                await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def run_to_end(self, **fields: Any) -> None:  # noqa: ANN401 - fields of WorkerSettings
        """Run a worker until it ends by itself."""
        async with asyncio.timeout(LIMIT_S):
            await run(self.settings(**fields), asyncio.Event())

    async def until(self, question: Callable[[], bool], task: asyncio.Task[None]) -> None:
        """Wait until the destination answers yes; raise what ends the worker before that."""
        async with asyncio.timeout(LIMIT_S):
            while not await asyncio.to_thread(question):
                if task.done():
                    task.result()
                    pytest.fail("the worker ended by itself")
                await asyncio.sleep(LOOK_S)

    async def caught_up(self, task: asyncio.Task[None]) -> None:
        """Wait until the destination has everything that `changes` has cut."""
        wanted = self.changes.position
        await self.until(lambda: (self.position() or (0, 0)) >= wanted, task)

    async def all_delivered(self) -> None:
        """Wait until the worker was sent all that is in the change stream."""
        consumer = f"CONSUMER.INFO.{self.names.changes_stream}.sink_postgres"
        async with asyncio.timeout(LIMIT_S):
            while True:
                if not (await self.broker.ask(consumer, {}))["num_pending"]:
                    return
                await asyncio.sleep(LOOK_S)

    async def told(self, condition: Callable[[SinkRecord], bool]) -> SinkRecord:
        """Wait until the sink's record is as wanted."""
        async with asyncio.timeout(LIMIT_S):
            async for key in self.record.watch():
                found = (await self.record.sinks()).get("postgres") if key[:5] == "sink." else None
                if found is not None and condition(found):
                    return found
        pytest.fail("the record's watch ended")

    def position(self) -> tuple[int, int] | None:
        """Return what all shards of the destination have; None before the first start."""
        if self.target.value("SELECT to_regclass('pgflo.progress')") is None:
            return None
        rows = self.target.rows(
            "SELECT (commit_lsn - '0/0')::bigint, ordinal FROM pgflo.progress ORDER BY 1, 2"
        )
        return (int(rows[0][0]), int(rows[0][1])) if rows else None


@pytest.fixture
async def stream(
    changes: Changes, target: Database, nats_url: str, tmp_path: Path
) -> AsyncIterator[Stream]:
    """Give a group of mode "stream" that is ready to be applied."""
    broker = await connect(NatsSettings(url=nats_url), name="test")
    try:
        record = await Record.open(broker, "g", create=True)
        assert record is not None
        made = Stream(broker, record, changes, target, tmp_path)
        await create_streams(broker, made.names, broker.settings, copy=True)
        await made.announce()
        yield made
    finally:
        await broker.close()
