"""Counts what a copy did more than once: rows published again, rows loaded and thrown away.

Upstream: tests that kill what copies. Downstream: the broker, which keeps a mirror of the copy
stream that nothing is purged from, and the destination, where a sequence counts every row that a
copy writer's COPY brings: sequences are not rolled back. Invariant: nobody is asked how often he
did something; both numbers come from what the servers saw.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from psycopg import sql

from pgflo import _core
from pgflo.broker.connection import connect
from pgflo.broker.consumer import Consumer
from pgflo.broker.names import Names
from pgflo.broker.record import Record
from pgflo.broker.records import Phase
from pgflo.broker.topology import stream_state
from pgflo.config.settings import NatsSettings
from pgflo.sinks.postgres.progress import create_schema

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fix_postgres import Database

    from pgflo.broker.connection import Broker

T = TypeVar("T")

READ_S = 10.0
"""How long one message of the mirror may take."""

LEDGER = (
    "CREATE SEQUENCE loaded_rows",
    """CREATE FUNCTION count_loaded() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM nextval('public.loaded_rows'); RETURN NEW; END $$""",
    "CREATE TABLE committed_ranges (row_count bigint NOT NULL)",
    """CREATE FUNCTION note_committed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO public.committed_ranges VALUES (NEW.row_count); RETURN NEW; END $$""",
    (
        "CREATE TRIGGER noted BEFORE INSERT ON pgflo.copied_ranges FOR EACH ROW"
        " EXECUTE FUNCTION note_committed()"
    ),
    "ALTER TABLE pgflo.copied_ranges ENABLE ALWAYS TRIGGER noted",
)
"""pgflo forgets the ranges of a table that it copies anew; `committed_ranges` does not."""

COUNT_ROWS = sql.SQL(
    "CREATE TRIGGER counted BEFORE INSERT ON {0} FOR EACH ROW"
    " WHEN (strpos(current_setting('application_name'), ' copy') > 0)"
    " EXECUTE FUNCTION count_loaded(); ALTER TABLE {0} ENABLE ALWAYS TRIGGER counted"
)


def count_loads(target: Database, tables: list[tuple[str, str]]) -> None:
    """Have the destination count what is copied into these tables from now on."""
    create_schema(target.connect())
    target.execute(*LEDGER, *(COUNT_ROWS.format(sql.Identifier(*table)) for table in tables))


def loaded_rows(target: Database) -> tuple[int, int]:
    """Give the rows that copy writers have sent by now, and those of ranges they committed."""
    sent = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM loaded_rows"
    committed = "SELECT coalesce(sum(row_count), 0)::bigint FROM committed_ranges"
    return int(target.value(sent)), int(target.value(committed))


@dataclass(frozen=True)
class Published:
    """What a copy has brought into the broker."""

    range_rows: int
    """Of the largest range."""
    ranges: int
    """Each counts once, whatever it was read for."""
    again: int
    """Attempts at a range beyond its first, under the same snapshot."""
    again_rows: int
    """Rows that are there more than once, under the same snapshot."""
    renewed_rows: int
    """Rows of snapshots that were lost: each is there once, and once more under another."""
    purged_unseen: int
    """Envelopes that the mirror came too late for."""


class CopyMirror:
    """The mirror of one group's copy stream. `create` it before a sink begins."""

    def __init__(self, nats_url: str, group: str) -> None:
        self._settings = NatsSettings(url=nats_url)
        self._group = group
        self._name = f"mirror_{group}"

    def create(self) -> bool:
        """Begin, if the group's copy stream is there by now; whether it is."""
        return asyncio.run(self._with_broker(self._create))

    def envelopes(self) -> int:
        """How many have been published by now."""
        return asyncio.run(self._with_broker(self._count))

    def published(self) -> Published:
        """Read all of it."""
        return asyncio.run(self._with_broker(self._read))

    async def _with_broker(self, call: Callable[[Broker], Awaitable[T]]) -> T:
        broker = await connect(self._settings, name="test")
        try:
            return await call(broker)
        finally:
            await broker.close()

    async def _create(self, broker: Broker) -> bool:
        record = await Record.open(broker, self._group, create=False)
        found = await record.group() if record else None
        if found is None or found[0].phase is Phase.CREATING:
            return False
        stream = Names(self._group, uuid.UUID(found[0].incarnation)).copy_stream
        mirror = {"name": self._name, "mirror": {"name": stream}, "storage": "file"}
        await broker.ask(f"STREAM.CREATE.{self._name}", mirror)
        return True

    async def _count(self, broker: Broker) -> int:
        return (await stream_state(broker, self._name)).last_seq

    async def _read(self, broker: Broker) -> Published:
        record = await Record.open(broker, self._group, create=False)
        assert record is not None
        tables = await record.tables()
        state = await stream_state(broker, self._name)
        consumer = await Consumer.open(broker, self._name, None, state.first_seq)
        rows: dict[tuple[int, int, int], dict[int, int]] = defaultdict(lambda: defaultdict(int))
        whole: dict[tuple[int, int, int], int] = {}
        seq = 0
        try:
            while seq < state.last_seq:
                message = await consumer.next(READ_S)
                assert message is not None, "the mirror ends early"
                seq = message.seq
                header = _core.read_header(message.data)
                key = header.relation_oid, header.snapshot_lsn, header.range_no
                rows[key][header.attempt] += header.rows
                if header.final:
                    whole[key] = header.total_rows
        finally:
            await consumer.close()
        again_rows = renewed_rows = 0
        for key, attempts in rows.items():
            once = whole.get(key, max(attempts.values()))
            again_rows += sum(attempts.values()) - once
            renewed_rows += once if tables[key[0]].snapshot_lsn != key[1] else 0
        return Published(
            max(whole.values()),
            len(rows),
            sum(len(attempts) - 1 for attempts in rows.values()),
            again_rows,
            renewed_rows,
            state.last_seq - state.messages,
        )
