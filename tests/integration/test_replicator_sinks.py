"""What sinks committed decides what the source may forget and what the broker may purge."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from nats.js.errors import APIError
from tests.fix_replicator import until

from pgflo import _core, errors
from pgflo.broker.names import Names
from pgflo.broker.record import Record
from pgflo.broker.records import CopiedRecord, SinkRecord
from pgflo.broker.spans import numbers
from pgflo.broker.topology import envelope_at, stream_state
from pgflo.config.settings import CopySettings
from pgflo.errors import PgfloError
from pgflo.replicator import start
from pgflo.source.connection import application_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.fix_replicator import Replicator

    from pgflo.broker.connection import Broker
    from pgflo.broker.records import GroupRecord
    from pgflo.broker.topology import StoredEnvelope


class Sinks:
    """Writes sinks' records as workers do, and looks at the streams."""

    def __init__(self, broker: Broker, record: Record, group: GroupRecord, names: Names) -> None:
        self.broker = broker
        self.record = record
        self.group = group
        self.names = names

    async def stand(
        self, sink: str, at: StoredEnvelope | None, *, lanes: dict[int, int] | None = None
    ) -> None:
        """Say that `sink` has applied up to and with an envelope (None: nothing)."""
        start_lsn = self.group.start_lsn
        header = at.header if at else None
        await self.record.put_sink(
            SinkRecord(
                name=sink,
                kind="postgres",
                incarnation=self.group.incarnation,
                commit_lsn=header.commit_lsn if header else start_lsn,
                ordinal=header.ordinal if header else 0,
                end_lsn=header.end_lsn if header else start_lsn,
                phase="streaming",
                lane_seqs=lanes or {},
            )
        )

    async def publish(self, parts: Iterable[bytes]) -> None:
        """Put parts of a copy into the first lane."""
        for part in parts:
            await self.broker.js.publish(self.names.copy_subject(0), part)

    async def envelope(self, seq: int) -> StoredEnvelope:
        """Read one envelope of the change stream."""
        found = await envelope_at(self.broker, self.names.changes_stream, seq)
        assert found is not None
        return found

    async def first_seq(self) -> int:
        """Give the first sequence that the change stream still holds."""
        return (await stream_state(self.broker, self.names.changes_stream)).first_seq

    async def last_seq(self) -> int:
        """Give the last sequence of the change stream."""
        return (await stream_state(self.broker, self.names.changes_stream)).last_seq


@dataclass(frozen=True)
class LostStream:
    """A group whose change stream is gone, with what it held."""

    sinks: Sinks
    first: StoredEnvelope
    fifth: StoredEnvelope

    async def assert_continued(self) -> None:
        """Check that the new chain begins where the fifth envelope ended."""
        sixth, fifth = (await self.sinks.envelope(1)).header, self.fifth.header
        assert (sixth.prev_commit_lsn, sixth.prev_ordinal) == (fifth.commit_lsn, fifth.ordinal)
        assert sixth.changes == 1


async def open_sinks(replicator: Replicator, broker: Broker) -> Sinks:
    """Open the record of a group that runs."""
    record = await Record.open(broker, replicator.group, create=False)
    assert record is not None
    found = await record.group()
    assert found is not None
    import uuid

    names = Names(replicator.group, uuid.UUID(found[0].incarnation))
    return Sinks(broker, record, found[0], names)


async def publish(replicator: Replicator, sinks: Sinks, envelopes: int) -> None:
    """Publish that many envelopes, a row in each."""
    for number in range(envelopes):
        seq = await sinks.last_seq()
        replicator.source.execute("INSERT INTO t DEFAULT VALUES")

        async def stored(seq: int = seq) -> bool:
            return await sinks.last_seq() > seq

        await until(stored, f"envelope {number + 1} stored")


async def test_the_slot_follows_the_slowest_sink(replicator: Replicator, broker: Broker) -> None:
    # GIVEN a group with two registered sinks
    replicator.source.execute("CREATE TABLE t (id serial PRIMARY KEY)")
    running = replicator.start(confirm_after="sink")
    await until(replicator.slot_lsn, "slot created")
    await replicator.until_streaming()
    sinks = await open_sinks(replicator, broker)
    await publish(replicator, sinks, 6)
    second, fifth = await sinks.envelope(2), await sinks.envelope(5)
    await sinks.stand("slow", None)
    # WHEN the fast one commits more than the slow one
    await sinks.stand("fast", fifth)
    await sinks.stand("slow", second)
    # THEN the slot stands where the slow one does, also at the end
    await until(lambda: replicator.slot_lsn() == second.header.end_lsn, "slot at the slow sink")
    await running.stop()
    assert replicator.slot_lsn() == second.header.end_lsn


async def test_a_sink_that_has_not_begun_holds_everything_back(
    replicator: Replicator, broker: Broker
) -> None:
    # GIVEN a sink that knows an earlier incarnation, and one that is up to date
    replicator.source.execute("CREATE TABLE t (id serial PRIMARY KEY)")
    await replicator.run(once=True)
    earlier = await open_sinks(replicator, broker)
    await earlier.stand("old", None)
    running = replicator.start(confirm_after="sink", restart=True, retain_s=0)
    await replicator.until_streaming(not_incarnation=earlier.group.incarnation)
    start_lsn = replicator.slot_lsn()
    sinks = await open_sinks(replicator, broker)
    await publish(replicator, sinks, 4)
    await sinks.stand("new", await sinks.envelope(4))
    # WHEN the earlier one comes as well, and stands at the second envelope
    assert replicator.slot_lsn() == start_lsn
    second = await sinks.envelope(2)
    await sinks.stand("old", second)
    # THEN the slot goes there, and nothing that it needed was purged before
    await until(lambda: replicator.slot_lsn() == second.header.end_lsn, "slot at the old sink")
    await running.stop()
    assert (await sinks.envelope(3)).header.commit_lsn > second.header.commit_lsn


async def test_what_every_sink_applied_is_purged_but_never_the_end_of_the_chain(
    replicator: Replicator, broker: Broker
) -> None:
    replicator.source.execute("CREATE TABLE t (id serial PRIMARY KEY)")
    running = replicator.start(retain_s=0)
    await until(replicator.slot_lsn, "slot created")
    await replicator.until_streaming()
    sinks = await open_sinks(replicator, broker)
    await publish(replicator, sinks, 6)
    assert await sinks.first_seq() == 1, "purged without a sink"
    await sinks.stand("slow", await sinks.envelope(2))
    await sinks.stand("fast", await sinks.envelope(6))

    async def begins_with(seq: int) -> bool:
        return await sinks.first_seq() == seq

    # One more than needed stays.
    await until(lambda: begins_with(2), "purged up to the slow sink")
    await sinks.stand("slow", await sinks.envelope(6))
    await until(lambda: begins_with(6), "purged up to the last envelope")
    # A restart goes on behind it.
    await running.stop()
    await replicator.run(once=True, retain_s=0)
    assert await sinks.last_seq() >= 6


async def test_lanes_are_purged_up_to_what_every_sink_applied(
    replicator: Replicator, broker: Broker
) -> None:
    source = replicator.source
    source.execute(
        "CREATE TABLE t (id serial PRIMARY KEY, v text)",
        "INSERT INTO t (v) SELECT repeat('x', 1000) FROM generate_series(1, 5000)",
    )
    one_lane = CopySettings(max_workers=1)
    running = replicator.start(mode="copy-and-stream", copying=one_lane, retain_s=0)
    await replicator.until_streaming()
    sinks = await open_sinks(replicator, broker)
    before = await stream_state(broker, sinks.names.copy_stream)
    assert before.messages > 5
    await sinks.stand("one", None, lanes={0: before.last_seq})
    await sinks.stand("other", None, lanes={0: 3})

    async def holds(messages: int) -> bool:
        state = await stream_state(broker, sinks.names.copy_stream)
        return state.messages == messages

    await until(lambda: holds(before.messages - 3), "lane purged up to the slow sink")
    await sinks.stand("other", None, lanes={0: before.last_seq})
    await until(lambda: holds(0), "lane purged")
    await running.stop()


async def test_a_copy_larger_than_its_stream_goes_on_as_sinks_apply_it(
    replicator: Replicator, broker: Broker
) -> None:
    # GIVEN a table of 12 MB and a stream of 4 MB
    source = replicator.source
    source.execute(
        "CREATE TABLE t (id serial PRIMARY KEY, v text)",
        "INSERT INTO t (v) SELECT repeat('x', 1000) FROM generate_series(1, 12000)",
    )
    ranges = CopySettings(max_workers=2, range_bytes=512 * 1024)
    running = replicator.start(
        mode="copy-and-stream", copying=ranges, stream_max_bytes=4 * 1024 * 1024
    )
    await until(replicator.slot_lsn, "slot created")

    async def waits() -> bool:
        tables = await replicator.tables()
        return any(table.published_ranges >= 3 for table in tables)

    await until(waits, "ranges published")
    # WHEN a sink says that it has applied all that is there, again and again
    sinks = await open_sinks(replicator, broker)
    seen = 0

    async def applied_all() -> bool:
        nonlocal seen
        state = await stream_state(broker, sinks.names.copy_stream)
        seen = max(seen, state.bytes)
        await sinks.stand("one", None, lanes={0: state.last_seq, 1: state.last_seq})
        return all(table.state == "published" for table in await replicator.tables())

    await until(applied_all, "copy published")
    # THEN the copy ended, and the stream was never larger than it may be
    assert seen <= 4 * 1024 * 1024
    await running.stop()


async def test_what_broken_attempts_leave_does_not_fill_a_copy_stream_for_ever(
    replicator: Replicator, broker: Broker
) -> None:
    # GIVEN a copy whose stream is full of a broken attempt, while sinks have all that is published
    source = replicator.source
    source.execute(
        "CREATE TABLE t (id serial PRIMARY KEY, v text)",
        "INSERT INTO t (v) SELECT repeat('x', 1000) FROM generate_series(1, 12000)",
    )
    ranges = CopySettings(max_workers=1, range_bytes=512 * 1024)
    limit_bytes = 2 * 1024 * 1024
    options = {"mode": "copy-and-stream", "copying": ranges, "stream_max_bytes": limit_bytes}
    process = replicator.spawn(**options)
    await replicator.until_published_ranges(1)
    process.kill()
    process.wait()
    sinks = await open_sinks(replicator, broker)
    (table,) = await replicator.tables()
    await sinks.stand("one", None)
    done = sorted(numbers(table.published))
    await sinks.record.put_copied(CopiedRecord("one", table.oid, done, 0, table.snapshot_lsn))
    packer = _core.CopyPacker(
        sinks.names.incarnation.bytes,
        table.oid,
        table.snapshot_lsn,
        table.ranges - 1,
        1,
        target_body_bytes=64 * 1024,
        max_body_bytes=128 * 1024,
    )
    parts = itertools.chain.from_iterable(packer.feed(b"rows\n" * 20000, 20000) for _ in range(99))
    with pytest.raises(APIError, match="maximum bytes"):
        await sinks.publish(parts)
    # WHEN the replicator comes back
    running = replicator.start(**options)
    # THEN it goes on
    await replicator.until_published_ranges(len(done) + 1)
    await running.stop()


async def lose_what_the_sink_has(replicator: Replicator, broker: Broker) -> LostStream:
    """Let a sink apply five envelopes and the slot follow it; then the broker loses them."""
    replicator.source.execute("CREATE TABLE t (id serial PRIMARY KEY)")
    running = replicator.start(confirm_after="sink")
    await until(replicator.slot_lsn, "slot created")
    await replicator.until_streaming()
    sinks = await open_sinks(replicator, broker)
    await publish(replicator, sinks, 5)
    lost = LostStream(sinks, await sinks.envelope(1), await sinks.envelope(5))
    await sinks.stand("one", lost.fifth)
    await until(lambda: replicator.slot_lsn() == lost.fifth.header.end_lsn, "slot at the sink")
    await running.stop()
    await replicator.delete_stream("changes")
    replicator.source.execute("INSERT INTO t DEFAULT VALUES")
    return lost


async def test_changes_that_the_broker_lost_but_every_sink_has_are_no_loss(
    replicator: Replicator, broker: Broker
) -> None:
    # GIVEN a slot that was confirmed because the only sink has everything, and a lost stream
    lost = await lose_what_the_sink_has(replicator, broker)
    # WHEN the replicator goes on
    await replicator.run(once=True, confirm_after="sink")
    # THEN it begins where the sink stands
    await lost.assert_continued()


async def test_a_sink_whose_last_word_the_broker_lost_may_say_it_again(
    replicator: Replicator, broker: Broker
) -> None:
    # GIVEN a broker that lost what the sink told last, together with the stream
    lost = await lose_what_the_sink_has(replicator, broker)
    await lost.sinks.stand("one", lost.first)
    # WHEN the replicator is back before the sink
    running = replicator.start(once=True, confirm_after="sink")
    await until(
        lambda: replicator.source.value(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s",
            [application_name(replicator.group, "check")],
        ),
        "a replicator that examines its slot",
    )
    await lost.sinks.stand("one", lost.fifth)
    await running.task
    # THEN it begins where the sink stands
    await lost.assert_continued()


async def test_changes_that_the_broker_lost_and_a_sink_does_not_have_stop_the_group(
    replicator: Replicator, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "SINKS_TELL_S", 0.5)
    lost = await lose_what_the_sink_has(replicator, broker)
    await lost.sinks.stand("one", lost.first)
    with pytest.raises(PgfloError) as told:
        await replicator.run(once=True, confirm_after="sink")
    assert told.value.kind is errors.SLOT_AHEAD
