"""Fixture `replicator`: the replicator of one group, in this process or in one that can be killed.

Neighbours: `fix_postgres` (the source), `fix_nats` (the broker). `read_back` reads what is stored
with nothing but the core's slow readers. Invariant: whatever a test started has ended when it ends,
and a group's chain is checked envelope by envelope whenever it is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import SecretStr

from pgflo import _core
from pgflo.broker.connection import connect
from pgflo.broker.consumer import Consumer
from pgflo.broker.names import Names
from pgflo.broker.record import Record
from pgflo.broker.records import Phase
from pgflo.broker.stored import is_missing
from pgflo.broker.topology import last_envelope, list_streams, stream_state
from pgflo.config.settings import NatsSettings, ReplicateSettings, RetrySettings, SourceSettings
from pgflo.errors import PgfloError
from pgflo.replicator.run import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.fix_postgres import Database

    from pgflo.broker.copy_progress import CopyProgress
    from pgflo.broker.records import GroupRecord, TableRecord

LIMIT_S = 60.0
LOOK_S = 0.02

RUN = """
import asyncio, signal, sys
from pgflo import logs
from pgflo.config.settings import ReplicateSettings, SourceSettings
from pgflo.replicator.run import run
from pydantic import SecretStr
import uvloop

logs.configure("json", "info")
settings = ReplicateSettings.model_validate_json(sys.argv[1])
source = settings.source.model_copy(update={"conninfo": SecretStr(sys.argv[2])})
settings = settings.model_copy(update={"source": source})

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await run(settings, stop)

if __name__ == "__main__":
    uvloop.run(main())
"""


@dataclass
class StoredGroup:
    """Everything that a group has in the broker, decoded."""

    record: GroupRecord
    tables: dict[int, TableRecord]
    headers: list[_core.Header] = field(default_factory=list)
    """Of the change stream, in order; a part that was published again is there twice."""
    changes: list[tuple[tuple[int, int], tuple[Any, ...]]] = field(default_factory=list)
    """Position and message of every change, each once, or the chain is broken."""
    parts: list[bytes] = field(default_factory=list)
    """Of the body that is being put together."""
    copied: dict[str, list[list[bytes | None]]] = field(default_factory=dict)
    """Rows of the copy by table, from the attempts that are complete."""
    attempts: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """Attempts that began, by table and range."""

    def inserted(self, column: int = 0) -> list[int]:
        """Give the integers in one column of all inserted rows, in commit order."""
        return [int(message[2][column][1]) for _, message in self.changes if message[0] == "I"]

    def copied_integers(self, table: str, column: int = 0) -> list[int]:
        """Give the integers in one column of all copied rows of a table, sorted."""
        return sorted(int(row[column] or b"0") for row in self.copied.get(table, []))


class Replicator:
    """One group's replicator. In-process runs end with the test."""

    def __init__(self, source: Database, nats_url: str, state_dir: Path, group: str) -> None:
        self.source = source
        self.nats_url = nats_url
        self.group = group
        self.names_at_source = Names(group, _NO_INCARNATION)
        self._state_dir = state_dir
        self._running: list[tuple[asyncio.Task[None], asyncio.Event]] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def settings(self, **options: Any) -> ReplicateSettings:  # noqa: ANN401 - fields of the settings
        """Give settings: those of SourceSettings and NatsSettings by their own names."""
        source = {
            name: options.pop(name) for name in SourceSettings.model_fields if name in options
        }
        source.setdefault("conninfo", SecretStr(self.source.dsn))
        nats = {name: options.pop(name) for name in NatsSettings.model_fields if name in options}
        options.setdefault("retry", RetrySettings(initial_wait_s=0.1, max_wait_s=0.5))
        return ReplicateSettings(
            group=self.group,
            source=SourceSettings(**source),
            nats=NatsSettings(**{"url": self.nats_url, **nats}),
            state_dir=self._state_dir,
            **options,
        )

    async def run(
        self,
        watcher: Callable[[CopyProgress], None] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Run to its own end."""
        await run(self.settings(**options), asyncio.Event(), watcher)

    def start(self, **options: Any) -> Running:  # noqa: ANN401
        """Start in this process."""
        stop = asyncio.Event()
        task = asyncio.ensure_future(run(self.settings(**options), stop))
        self._running.append((task, stop))
        return Running(task, stop)

    def spawn(self, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
        """Start as a process, to be killed."""
        settings = self.settings(**options)
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, settings.model_dump_json(), self.source.dsn],
            stdout=subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process

    async def end(self) -> None:
        """End whatever still runs."""
        for task, stop in self._running:
            stop.set()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        for process in self._processes:
            process.kill()
            process.wait()

    def snapshot_sessions(self) -> list[int]:
        """Give the backends that hold a snapshot of this group."""
        rows = self.source.rows(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s",
            [f"pgflo_{self.group} snapshot"],
        )
        return [pid for (pid,) in rows]

    async def until_published_ranges(self, count: int, name: str = "t") -> None:
        """Return when the ledger has so many ranges of a table."""

        async def has_some() -> bool:
            tables = [table for table in await self.tables() if table.name == name]
            return bool(tables) and tables[0].published_ranges >= count

        await until(has_some, f"{count} ranges of {name} published")

    async def read_back(self) -> StoredGroup:
        """Read everything that the group has in the broker, checking the chain."""
        broker = await connect(NatsSettings(url=self.nats_url), name="test")
        try:
            record = await Record.open(broker, self.group, create=False)
            assert record is not None
            found = await record.group()
            assert found is not None
            tables = await record.tables()
            group = StoredGroup(found[0], {oid: tables[oid] for oid in found[0].tables})
            names = Names(self.group, _uuid(found[0].incarnation))
            for data in await _all_messages(broker, names.changes_stream):
                _add_changes(group, data)
            if group.record.mode != "stream":
                _add_copied(group, await _all_messages(broker, names.copy_stream))
            return group
        finally:
            await broker.close()

    async def record(self) -> GroupRecord | None:
        """Read the group's record."""
        broker = await connect(NatsSettings(url=self.nats_url), name="test")
        try:
            record = await Record.open(broker, self.group, create=False)
            found = await record.group() if record else None
            return found[0] if found else None
        finally:
            await broker.close()

    async def tables(self) -> list[TableRecord]:
        """Read the records of the group's tables."""
        broker = await connect(NatsSettings(url=self.nats_url), name="test")
        try:
            record = await Record.open(broker, self.group, create=False)
            return list((await record.tables()).values()) if record else []
        finally:
            await broker.close()

    async def until_streaming(self, *, not_incarnation: str = "") -> None:
        """Return when the record says that the copy, if any, is published."""

        async def streams() -> bool:
            for task, _ in self._running:
                if task.done() and not task.cancelled():
                    task.result()
            record = await self.record()
            return (
                record is not None
                and record.phase is Phase.STREAMING
                and record.incarnation != not_incarnation
            )

        await until(streams, "streaming")

    async def change_record(self, **changes: Any) -> None:  # noqa: ANN401 - fields of GroupRecord
        """Write other values into the group's record."""
        broker = await connect(NatsSettings(url=self.nats_url), name="test")
        try:
            record = await Record.open(broker, self.group, create=False)
            found = await record.group() if record else None
            assert record is not None
            assert found is not None
            await record.put_group(replace(found[0], **changes), found[1])
        finally:
            await broker.close()

    async def streams(self) -> list[str]:
        """Name the streams of every incarnation."""
        broker = await connect(NatsSettings(url=self.nats_url), name="test")
        try:
            return await list_streams(broker, self.group)
        finally:
            await broker.close()

    async def delete_stream(self, which: Literal["changes", "copy"]) -> None:
        """Remove one of the group's streams, as an operator might."""
        record = await self.record()
        assert record is not None
        broker = await connect(NatsSettings(url=self.nats_url), name="test")
        try:
            names = Names(self.group, _uuid(record.incarnation))
            stream = names.changes_stream if which == "changes" else names.copy_stream
            await broker.ask(f"STREAM.DELETE.{stream}", {})
        finally:
            await broker.close()

    async def fill_copy_stream_with_its_last(self) -> None:
        """Put its last message in the place of every message of the copy stream.

        So it looks when the broker lost the rest while one lane published on.
        """
        record = await self.record()
        assert record is not None
        broker = await connect(NatsSettings(url=self.nats_url), name="test")
        try:
            stream = Names(self.group, _uuid(record.incarnation)).copy_stream
            config = (await broker.js.stream_info(stream)).config
            last = await broker.js.get_msg(
                stream, seq=(await stream_state(broker, stream)).last_seq
            )
            await broker.ask(f"STREAM.DELETE.{stream}", {})
            await broker.js.add_stream(config)
            for _ in range(last.seq or 0):
                await broker.js.publish(last.subject or "", last.data or b"")
        finally:
            await broker.close()

    async def change_stream_bytes(self) -> int:
        """Give the size of the change stream."""
        record = await self.record()
        if record is None:
            return 0
        broker = await connect(NatsSettings(url=self.nats_url), name="test")
        try:
            stream = Names(self.group, _uuid(record.incarnation)).changes_stream
            return (await stream_state(broker, stream)).bytes
        finally:
            await broker.close()

    async def until_published(self, lsn: int) -> None:
        """Return when the change stream's last envelope ends at or behind `lsn`.

        Raises what a replicator in this process has ended with.
        """

        async def ends_behind() -> bool:
            for task, _ in self._running:
                if task.done() and not task.cancelled():
                    task.result()
            record = await self.record()
            if record is None or record.phase is Phase.CREATING:
                return False
            stream = Names(self.group, _uuid(record.incarnation)).changes_stream
            try:
                last = await last_envelope(broker, stream)
            except PgfloError as error:
                if not is_missing(error):
                    raise
                return False
            return last is not None and last.header.end_lsn >= lsn

        broker = await connect(NatsSettings(url=self.nats_url), name="test")
        try:
            await until(ends_behind, f"published up to {_core.lsn_format(lsn)}")
        finally:
            await broker.close()

    async def is_level(self) -> bool:
        """Whether the change stream holds all that the source has committed by now."""
        lsn = self.wal_lsn()
        record = await self.record()
        if record is None:
            return False
        broker = await connect(NatsSettings(url=self.nats_url), name="test")
        try:
            stream = Names(self.group, _uuid(record.incarnation)).changes_stream
            last = await last_envelope(broker, stream)
            return last is not None and last.header.end_lsn >= lsn
        finally:
            await broker.close()

    def slot_lsn(self) -> int | None:
        """Where the slot is confirmed; None without a slot that is ready."""
        rows = self.source.rows(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
            [self.names_at_source.slot],
        )
        return _core.lsn_parse(rows[0][0]) if rows and rows[0][0] else None

    def wal_lsn(self) -> int:
        """Where the source's WAL ends."""
        return _core.lsn_parse(self.source.value("SELECT pg_current_wal_lsn()::text"))

    def objects_at_source(self) -> list[str]:
        """Slots and publications with this group's name."""
        return [
            name
            for (name,) in self.source.rows(
                "SELECT slot_name::text FROM pg_replication_slots WHERE slot_name LIKE %s"
                " UNION ALL SELECT pubname::text FROM pg_publication WHERE pubname LIKE %s",
                [f"pgflo%{self.group}", f"pgflo%{self.group}"],
            )
        ]


@dataclass
class Running:
    """A replicator in this process."""

    task: asyncio.Task[None]
    stop_event: asyncio.Event

    async def stop(self) -> None:
        """Ask it to stop and wait for its end; raises what it raised."""
        self.stop_event.set()
        await asyncio.wait_for(self.task, LIMIT_S)


async def until(question: Callable[[], Any], what: str, *, limit_s: float = LIMIT_S) -> None:
    """Return when the answer (or what it awaits) is true; fail naming `what` after `limit_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while True:
        answer = question()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        if loop.time() > deadline:
            pytest.fail(f"not within {limit_s:.0f} s: {what}")
        await asyncio.sleep(LOOK_S)


def _uuid(text: str) -> Any:  # noqa: ANN401
    import uuid

    return uuid.UUID(text)


_NO_INCARNATION = _uuid("00000000-0000-0000-0000-000000000000")


async def _all_messages(broker: Any, stream: str) -> list[bytes]:  # noqa: ANN401
    state = await stream_state(broker, stream)
    if not state.messages:
        return []
    consumer = await Consumer.open(broker, stream, None, state.first_seq)
    try:
        read: list[bytes] = []
        seq = 0
        while seq < state.last_seq:
            message = await consumer.next(LIMIT_S)
            assert message is not None, f"{stream} ends early"
            seq = message.seq
            read.append(message.data)
        return read
    finally:
        await consumer.close()


def _add_changes(group: StoredGroup, data: bytes) -> None:
    header = _core.read_header(data)
    whole = [h for h in group.headers if h.part + 1 == h.parts]
    end = (whole[-1].commit_lsn, whole[-1].ordinal) if whole else (group.record.start_lsn, 0)
    prev = (header.prev_commit_lsn, header.prev_ordinal)
    assert prev == end, (
        f"the chain breaks: an envelope begins at {prev}, the last one ended at {end}"
    )
    assert header.incarnation.hex() == group.record.incarnation.replace("-", "")
    body = data[_core.HEADER_BYTES :]
    group.headers.append(header)
    if header.parts > 1:
        parts = group.parts
        if header.part == 0:
            parts.clear()
        assert len(parts) == header.part, "a part is missing"
        parts.append(body)
        if header.part + 1 < header.parts:
            return
        body = b"".join(parts)
    commit_lsn, ordinal = prev
    for message in _core.decode_messages(body):
        if message[0] == "B":
            ordinal = ordinal if message[1] == commit_lsn else 0
            commit_lsn = message[1]
        elif message[0] in "IUDT" or (message[0] == "M" and message[1]):
            ordinal += 1
            group.changes.append(((commit_lsn, ordinal), message))
    if header.kind == _core.KIND_CHANGES and header.changes:
        assert (header.commit_lsn, header.ordinal) == (commit_lsn, ordinal)


def _as_text(table: TableRecord, header: _core.Header, data: bytes) -> list[bytes]:
    """Give the rows of a whole attempt as lines of COPY's text format."""
    if header.binary:
        converter = _core.BinaryToText([column.type_oid for column in table.columns])
        data = converter.feed(data)
        converter.finish()
    return data.splitlines()


def _add_copied(group: StoredGroup, envelopes: list[bytes]) -> None:
    attempts: dict[tuple[int, int, int], list[bytes]] = {}
    complete: dict[tuple[int, int], list[bytes]] = {}
    for data in envelopes:
        header = _core.read_header(data)
        if header.snapshot_lsn != group.tables[header.relation_oid].snapshot_lsn:
            continue
        key = (header.relation_oid, header.range_no, header.attempt)
        parts = attempts.setdefault(key, [])
        assert header.part_no == len(parts), "a part of an attempt is missing"
        parts.append(data[_core.HEADER_BYTES :])
        if header.part_no == 0:
            group.attempts.setdefault(key[:2], []).append(header.attempt)
        if header.final:
            rows = _as_text(group.tables[header.relation_oid], header, b"".join(parts))
            assert len(rows) == header.total_rows
            complete.setdefault(key[:2], rows)
    for oid, table in group.tables.items():
        numbers = {number for found, number in complete if found == oid}
        assert numbers == set(range(table.ranges)), f"{table.name} lacks ranges"
    for (oid, _), rows in complete.items():
        name = f"{group.tables[oid].schema}.{group.tables[oid].name}"
        group.copied.setdefault(name, []).extend(
            [None if cell == b"\\N" else cell for cell in row.split(b"\t")] for row in rows
        )


@pytest.fixture
async def replicator(
    source: Database, nats_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Replicator]:
    """Give a replicator whose group has a name of its own."""
    import hashlib

    group = "r" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:10]
    made = Replicator(source, nats_url, tmp_path, group)
    yield made
    await made.end()
