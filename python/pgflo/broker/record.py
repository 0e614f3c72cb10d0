"""The group's record: a key-value bucket in which replicator, workers and `status` leave notes.

Upstream: `records` defines the values, `topology` removes the bucket with the group. Downstream:
everyone who must know about the others; `lease` keeps its keys here too.
Invariant: each key has one writer, so a plain put may be repeated after a lost answer; `group`, the
tables and the leases are written by compare-and-set. The truth about what is applied is never here
but in the sink.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import nats.errors
import nats.js.errors
import structlog
from nats.js.api import DiscardPolicy, StorageType

from pgflo.broker.acknowledgement import WRONG_LAST_SEQUENCE
from pgflo.broker.connection import CLIENT_ERRORS
from pgflo.broker.consumer import Consumer
from pgflo.broker.copy_progress import CopyProgress
from pgflo.broker.names import Names
from pgflo.broker.records import (
    ColumnRecord,
    CopiedRecord,
    GroupRecord,
    Phase,
    SequencesRecord,
    SinkRecord,
    SnapshotRecord,
    TableRecord,
    TableState,
)
from pgflo.broker.stored import is_missing
from pgflo.errors import (
    BROKER_PAYLOAD,
    BROKER_REFUSED,
    BROKER_SETTINGS,
    BROKER_UNREACHABLE,
    BROKER_WENT_BACK,
    CONFIG,
    GROUP_CHANGED,
    PgfloError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from nats.js.kv import KeyValue

    from pgflo.broker.connection import Broker

__all__ = [
    "ColumnRecord",
    "CopiedRecord",
    "GroupRecord",
    "Phase",
    "Record",
    "SinkRecord",
    "SnapshotRecord",
    "TableRecord",
    "TableState",
]

log = structlog.get_logger("pgflo.broker")

PATIENCE_S = 30.0
"""How long a read or write is repeated while the broker is away."""

PAUSE_S = 0.2
READS_AT_ONCE = 32
GROUP_KEY = "group"
COPYING_KEY = "copying"

AnyRecord = TypeVar(
    "AnyRecord", GroupRecord, TableRecord, SinkRecord, CopiedRecord, SequencesRecord
)
Result = TypeVar("Result")


class Record:
    """The client of one group's record. `open` makes it; any task may use it."""

    def __init__(self, broker: Broker, name: str, kv: KeyValue) -> None:
        self.broker = broker
        self.group_name = name
        self._bucket = Names.bucket_of(name)
        self._kv = kv

    @classmethod
    async def open(cls, broker: Broker, group: str, *, create: bool) -> Record | None:
        """Open the record of `group`; None when there is none and `create` does not ask for one.

        Raises `PgfloError` (BROKER_SETTINGS) when the bucket is not one of ours.
        """
        bucket = Names.bucket_of(group)
        try:
            info = await broker.ask(f"STREAM.INFO.KV_{bucket}", {})
        except PgfloError as error:
            if not is_missing(error):
                raise
            if not create:
                return None
            await _repeat(
                broker,
                lambda: broker.js.create_key_value(
                    bucket=bucket,
                    history=1,
                    storage=StorageType.FILE,
                    replicas=broker.settings.stream_replicas,
                ),
            )
            info = await broker.ask(f"STREAM.INFO.KV_{bucket}", {})
        config = info["config"]
        for key, value in (
            ("max_msgs_per_subject", 1),
            ("storage", StorageType.FILE.value),
            ("discard", DiscardPolicy.NEW.value),
            ("max_age", 0),
        ):
            if config.get(key, 0) != value:
                raise PgfloError(
                    BROKER_SETTINGS, f"bucket {bucket}: {key} is {config.get(key)!r}, not {value!r}"
                )
        kv = await _repeat(broker, lambda: broker.js.key_value(bucket))
        return cls(broker, group, kv)

    async def group(self) -> tuple[GroupRecord, int] | None:
        """Read the group and the revision to hand to `put_group`; None before there is one."""
        entry = await self.read(GROUP_KEY)
        if entry is None:
            return None
        return GroupRecord.from_json(entry[0], key=GROUP_KEY), entry[1]

    async def put_group(self, record: GroupRecord, revision: int | None) -> int:
        """Replace the revision read (None: there was none) and give the new one.

        Raises `PgfloError` (GROUP_CHANGED) when somebody else was faster.
        """
        written = await self.replace(GROUP_KEY, record.to_json(), revision)
        if written is None:
            raise PgfloError(
                GROUP_CHANGED, f"group {self.group_name}: another process changed the record"
            )
        return written

    async def tables(self) -> dict[int, TableRecord]:
        """Read all tables, by OID."""
        return {oid: record for oid, (record, _) in (await self.tables_with_revisions()).items()}

    async def tables_with_revisions(self) -> dict[int, tuple[TableRecord, int]]:
        """Read all tables with the revisions to hand to `replace_table`, by OID."""
        found = await self._read_all("table.*", TableRecord)
        return {record.oid: (record, revision) for record, revision in found}

    async def put_table(self, record: TableRecord) -> None:
        """Write one table, whatever is there."""
        await self.write(f"table.{record.oid}", record.to_json())

    async def table(self, oid: int) -> tuple[TableRecord, int] | None:
        """Read one table and the revision to hand to `replace_table`; None if there is none."""
        key = f"table.{oid}"
        entry = await self.read(key)
        return None if entry is None else (TableRecord.from_json(entry[0], key=key), entry[1])

    async def replace_table(self, record: TableRecord, revision: int | None) -> int | None:
        """Replace the revision read (None: there was none) and give the new one.

        None when somebody else was faster.
        """
        return await self.replace(f"table.{record.oid}", record.to_json(), revision)

    async def sinks(self) -> dict[str, SinkRecord]:
        """Read all registered sinks, by name."""
        found = await self._read_all("sink.*", SinkRecord)
        return {record.name: record for record, _ in found}

    async def sink_names(self) -> list[str]:
        """Tell which sinks are or were registered, also those whose records cannot be read."""
        return [key.removeprefix("sink.") for key in await self._keys("sink.*")]

    async def put_sink(self, record: SinkRecord) -> None:
        """Write one sink: from the first time on it is registered."""
        check_sink(record.name)
        await self.write(f"sink.{record.name}", record.to_json())

    async def drop_sink(self, name: str) -> None:
        """Forget a sink and the ranges it copied; nothing if it is not registered."""
        check_sink(name)
        for key in [*await self._keys(f"copied.{name}.*"), f"sink.{name}"]:
            await self.remove(key)

    async def copied(self, sink: str) -> dict[int, CopiedRecord]:
        """Read which ranges `sink` has committed, by OID of the table."""
        check_sink(sink)
        found = await self._read_all(f"copied.{sink}.*", CopiedRecord)
        return {record.oid: record for record, _ in found}

    async def put_copied(self, record: CopiedRecord) -> None:
        """Write which ranges of a table a sink has committed."""
        check_sink(record.sink)
        await self.write(f"copied.{record.sink}.{record.oid}", record.to_json())

    async def sequences(self) -> list[SequencesRecord]:
        """Read where the source's sequences stand, in chunks."""
        return [record for record, _ in await self._read_all("sequences.*", SequencesRecord)]

    async def put_sequences(self, chunks: Sequence[SequencesRecord]) -> None:
        """Write where the source's sequences stand; chunks of a longer list before go."""
        keys = [f"sequences.{number}" for number in range(len(chunks))]
        for key, chunk in zip(keys, chunks, strict=True):
            await self.write(key, chunk.to_json())
        for key in set(await self._keys("sequences.*")).difference(keys):
            await self.remove(key)

    async def copying(self) -> CopyProgress | None:
        """Read how the copy goes, as was told last; the incarnation and run in it may be former."""
        entry = await self.read(COPYING_KEY)
        return None if entry is None else CopyProgress.from_json(entry[0], key=COPYING_KEY)

    async def put_copying(self, progress: CopyProgress) -> None:
        """Tell how the copy goes."""
        await self.write(COPYING_KEY, progress.to_json())

    async def watch(self) -> AsyncGenerator[str, None]:
        """Give all keys there are, then each that changes, without end; a key may come more often.

        When the broker lost and regained the bucket, all keys come again.
        """
        prefix = f"$KV.{self._bucket}."
        while True:
            consumer = await Consumer.open(
                self.broker, f"KV_{self._bucket}", None, 1, has_holes=True
            )
            try:
                while True:
                    message = await consumer.next(None)
                    if message is not None:
                        yield message.subject.removeprefix(prefix)
            except PgfloError as error:
                if error.kind is not BROKER_WENT_BACK:
                    raise
                log.warning("the group's record went back", group=self.group_name)
            finally:
                await consumer.close()

    async def destroy(self) -> None:
        """Remove the record with everything in it."""
        try:
            await self.broker.ask(f"STREAM.DELETE.KV_{self._bucket}", {})
        except PgfloError as error:
            if not is_missing(error):
                raise

    async def read(self, key: str) -> tuple[bytes, int] | None:
        """Read one key with its revision; None when it is not there."""
        try:
            entry = await self._repeat(lambda: self._kv.get(key))
        except nats.js.errors.KeyNotFoundError:
            return None
        return entry.value or b"", entry.revision or 0

    async def write(self, key: str, value: bytes) -> None:
        """Write one key, whatever it holds."""
        await self._repeat(lambda: self._kv.put(key, value))

    async def replace(self, key: str, value: bytes, revision: int | None) -> int | None:
        """Write one key if it still has `revision` (None: does not exist); None when it has not.

        A write whose answer was lost counts as done when the key holds our value.
        """
        try:
            if revision is None:
                return await self._repeat(lambda: self._kv.create(key, value))
            return await self._repeat(lambda: self._kv.update(key, value, last=revision))
        except nats.js.errors.KeyWrongLastSequenceError:
            entry = await self.read(key)
            if entry is not None and entry[0] == value and entry[1] > (revision or 0):
                return entry[1]
            return None

    async def remove(self, key: str, revision: int | None = None) -> None:
        """Remove one key; with `revision` only if it still has that one."""
        try:
            await self._repeat(lambda: self._kv.delete(key, last=revision))
        except nats.js.errors.APIError as error:
            if error.err_code not in WRONG_LAST_SEQUENCE:
                raise

    async def _keys(self, pattern: str) -> list[str]:
        prefix, found = f"$KV.{self._bucket}.", []
        offset = 0
        while True:
            info = await self.broker.ask(
                f"STREAM.INFO.KV_{self._bucket}",
                {"subjects_filter": prefix + pattern, "offset": offset},
            )
            subjects = info["state"].get("subjects") or {}
            found += [subject.removeprefix(prefix) for subject in subjects]
            offset += len(subjects)
            if not subjects or offset >= int(info.get("total", 0)):
                return found

    async def _read_all(self, pattern: str, kind: type[AnyRecord]) -> list[tuple[AnyRecord, int]]:
        keys = await self._keys(pattern)
        found: list[tuple[AnyRecord, int]] = []
        for first in range(0, len(keys), READS_AT_ONCE):
            some = keys[first : first + READS_AT_ONCE]
            entries = await asyncio.gather(*(self.read(key) for key in some))
            found += [
                (kind.from_json(entry[0], key=key), entry[1])
                for key, entry in zip(some, entries, strict=True)
                if entry is not None
            ]
        return found

    async def _repeat(self, action: Callable[[], Awaitable[Result]]) -> Result:
        return await _repeat(self.broker, action)


def check_sink(name: str) -> None:
    """Raise `PgfloError` (CONFIG) unless `name` may stand in keys and names of consumers."""
    plain = name.replace("_", "").replace("-", "")
    if not (plain.isascii() and plain.isalnum() and len(name) <= 40):
        raise PgfloError(
            CONFIG,
            f"{name!r} is not a sink name: 1 to 40 of a-z, A-Z, 0-9, _ and -",
            setting="sink",
        )


async def _repeat(broker: Broker, action: Callable[[], Awaitable[Result]]) -> Result:
    """Do what may be done twice, again and again while the broker is away."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                await broker.wait_connected()
            return await broker.attempt(action)
        except (nats.js.errors.KeyNotFoundError, nats.js.errors.KeyWrongLastSequenceError):
            raise
        except nats.errors.MaxPayloadError:
            raise PgfloError(BROKER_PAYLOAD, "a value of the group's record is too large") from None
        except nats.js.errors.APIError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                raise
            waits = isinstance(error, nats.js.errors.ServiceUnavailableError)
            if not waits or loop.time() > deadline:
                raise PgfloError(
                    BROKER_REFUSED,
                    f"the group's record: {error.description or 'not available'}",
                    err_code=error.err_code or 0,
                ) from None
        except (*CLIENT_ERRORS, TimeoutError) as error:
            broker.check_open()
            if loop.time() > deadline:
                raise PgfloError(
                    BROKER_UNREACHABLE, f"no answer from {broker.where}: {error}"
                ) from None
        await asyncio.sleep(PAUSE_S)
