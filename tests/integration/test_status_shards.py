"""What the group's record and `pgflo status` tell of several shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from rich.console import Console
from tests.fix_shards import held, shard_positions, some_shard_waits

from pgflo import _core
from pgflo.status.gather import gather
from pgflo.status.show import draw, to_json

if TYPE_CHECKING:
    from tests.fix_stream import Stream

    from pgflo.broker.records import SinkRecord

ROWS = "INSERT INTO t SELECT g, 'v' FROM generate_series(1, 30) g"


async def begin(stream: Stream) -> None:
    """Make a table and publish its rows."""
    table = "CREATE TABLE t (id int PRIMARY KEY, v text)"
    stream.changes.source.execute(table)
    stream.target.execute(table)
    stream.changes.frames()
    await change(stream, ROWS)


async def change(stream: Stream, statement: str) -> None:
    """Publish what a statement changes."""
    stream.changes.source.execute(statement)
    await stream.publish(stream.changes.envelopes())


async def test_where_each_shard_stands_is_told_when_one_cannot_go_on(stream: Stream) -> None:
    await begin(stream)
    async with stream.worker(shards=3) as task:
        await stream.caught_up(task)
        # GIVEN a shard that waits for somebody, while the others go on
        with held(stream.target, "t", key=1):
            await change(stream, "UPDATE t SET v = 'w'")

            def is_told(sink: SinkRecord) -> bool:
                told = [(shard.commit_lsn, shard.ordinal) for shard in sink.shards]
                return len(set(told)) > 1 and told == shard_positions(stream.target)

            told = await stream.told(is_told)
            assert some_shard_waits(stream.target)
            # THEN programs and people see where each stands, and that the sink is at the smallest
            snapshot = await gather(stream.broker, stream.record, None)
            (sink,) = orjson.loads(to_json(snapshot))["sinks"]
            assert [shard["end_lsn"] for shard in sink["shards"]] == [
                _core.lsn_format(shard.end_lsn) for shard in told.shards
            ]
            assert sink["end_lsn"] == _core.lsn_format(min(s.end_lsn for s in told.shards))
            lags = [shard["lag_bytes"] for shard in sink["shards"]]
            assert min(lags) == 0
            assert sink["lag_bytes"] == max(lags) > 0
            console = Console(width=200)
            with console.capture() as drawn:
                console.print(draw(snapshot))
            lines = drawn.get().splitlines()
            for number, shard in enumerate(sink["shards"]):
                (line,) = [line for line in lines if f"shard {number} " in line]
                assert shard["end_lsn"] in line
        await stream.caught_up(task)
        await stream.told(lambda sink: len({shard.end_lsn for shard in sink.shards}) == 1)


async def test_of_a_single_shard_nothing_is_told_twice(stream: Stream) -> None:
    await begin(stream)
    await stream.run_to_end(shards=3, once=True)
    assert len((await stream.record.sinks())["postgres"].shards) == 3
    await stream.run_to_end(shards=1, once=True)
    assert not (await stream.record.sinks())["postgres"].shards
