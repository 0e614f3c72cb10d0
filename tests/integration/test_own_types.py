"""Values of types that only the source has are told by what those are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.fix_pipeline import eventually
from tests.fix_sinks import committed

from pgflo.broker.connection import connect
from pgflo.broker.record import Record
from pgflo.replicator import group as groups
from pgflo.replicator.growth import note_types

if TYPE_CHECKING:
    from tests.fix_pipeline import Pipeline
    from tests.fix_replicator import Replicator
    from tests.fix_sinks import Event

TABLE = """
CREATE DOMAIN whole AS int;
CREATE TYPE pair AS (a int, b text);
CREATE TABLE t (id whole PRIMARY KEY, wholes whole[], p pair);
INSERT INTO t VALUES (1, '{1,2}', '(1,x)');
"""


def test_types_are_known_from_the_copy_on_and_again_from_the_next_start_on(
    pipeline: Pipeline,
) -> None:
    files = pipeline.directory / "files"

    def row(number: int) -> Event:
        def found() -> list[Event]:
            pipeline.assert_alive()
            return [event["new"] for event in committed(files) if event["new"]["id"] == number]

        return eventually(found, f"row {number}")[0]

    # GIVEN a table with a domain, an array of it and a composite type, which is copied and followed
    pipeline.run_script(TABLE)
    replicator = pipeline.replicate()
    pipeline.start("worker", "file", "--file-output-dir", str(files))
    assert row(1) == {"id": 1, "wholes": [1, 2], "p": {"a": 1, "b": "x"}}
    # WHEN columns come while changes stream, of a domain of yesterday and of types of today
    pipeline.run_script(
        "CREATE DOMAIN flag AS bool; CREATE DOMAIN flags AS bool[];"
        "ALTER TABLE t ADD w whole, ADD f flag, ADD fs flags, ADD every flag[];"
        "ALTER TYPE pair ADD ATTRIBUTE c int;"
        "INSERT INTO t VALUES (2, '{}', '(1,x,2)', 3, true, '{t,f}', '{t}')"
    )
    # THEN domains are told by what is beneath them; what nobody has told yet is text
    new = {"w": 3, "f": True, "fs": [True, False]}
    assert row(2) == {"id": 2, "wholes": [], "p": "(1,x,2)", **new, "every": "{t}"}
    # WHEN the replicator is started again
    assert replicator.stop() == 0
    pipeline.run_script("INSERT INTO t VALUES (3, NULL, '(1,x,2)', 3, true, '{t,f}', '{t}')")
    pipeline.replicate("--stream")
    # THEN it tells the worker, which did not stop, before the first change
    pair = {"a": 1, "b": "x", "c": 2}
    assert row(3) == {"id": 3, "wholes": None, "p": pair, **new, "every": [True]}


class Killed(Exception):  # noqa: N818 - what happens, not what is wrong
    """Stands for the end of the process."""


class Dying(Record):
    """A record whose process dies after some writes."""

    writes_left: int

    async def replace(self, key: str, value: bytes, revision: int | None) -> int | None:
        """Write, while there is life left."""
        if not self.writes_left:
            raise Killed
        self.writes_left -= 1
        return await super().replace(key, value, revision)


@pytest.mark.parametrize("writes", [1, 2])
async def test_a_crash_between_types_and_layout_leaves_the_layout_to_the_next_start(
    replicator: Replicator, writes: int
) -> None:
    # GIVEN two tables with a composite type that is altered while no replicator runs
    replicator.source.execute(
        "CREATE TYPE pair AS (a int, b text)",
        "CREATE TABLE t (id int PRIMARY KEY, p pair); CREATE TABLE u (id int PRIMARY KEY, p pair)",
    )
    running = replicator.start()
    await replicator.until_streaming()
    await running.stop()
    before = await replicator.record()
    assert before is not None
    replicator.source.execute("ALTER TYPE pair ADD ATTRIBUTE c int")
    # WHEN a start dies after it has told the types of one table, or of both
    settings = replicator.settings()
    broker = await connect(settings.nats, name="test")
    try:
        record = await Dying.open(broker, replicator.group, create=False)
        assert isinstance(record, Dying)
        record.writes_left = writes
        stored = await record.group()
        assert stored is not None
        group = await groups.resume(record, groups.Found(*stored), settings)
        async with await psycopg.AsyncConnection.connect(replicator.source.dsn) as conn:
            table_set = await groups.examine(conn, settings, known=True)
        with pytest.raises(Killed):
            await note_types(group, table_set)
    finally:
        await broker.close()
    left = await replicator.record()
    assert left is not None
    assert left.layout == before.layout
    # THEN the next one tells the rest, and begins a layout: once
    for _ in range(2):
        replicator.source.execute("INSERT INTO t SELECT count(*) FROM t")
        running = replicator.start()
        await replicator.until_published(replicator.wal_lsn())
        await running.stop()
        found = await replicator.record()
        assert found is not None
        assert found.layout == before.layout + 1
    for table in await replicator.tables():
        assert [[name for name, _ in made.attributes] for made in table.types] == [["a", "b", "c"]]
