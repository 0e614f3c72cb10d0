"""What stdout takes counts as printed, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.fix_sinks import ToStdout, parse, wait_end

from pgflo.errors import Exit
from pgflo.sinks.stdout import pretty

if TYPE_CHECKING:
    from tests.fix_sinks import Event
    from tests.fix_stream import Stream


class ToPipe(ToStdout):
    """A sink whose output a test reads."""

    def output(self) -> Any:  # noqa: ANN401 - what Popen takes
        """Give a pipe."""
        return contextlib.nullcontext(subprocess.PIPE)


def head(process: subprocess.Popen[bytes], lines: int) -> list[Event]:
    """Read some lines, then go away."""
    assert process.stdout is not None
    with process.stdout as output:
        return [parse(output.readline()) for _ in range(lines)]


async def test_a_reader_that_goes_away_ends_it_well_and_misses_nothing(
    to_stdout: ToStdout, stream: Stream
) -> None:
    source = stream.changes.source
    source.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    for _ in range(40):
        source.execute(
            "INSERT INTO t SELECT (SELECT coalesce(max(id), 0) FROM t) + n, repeat('x', 500)"
            " FROM generate_series(1, 40) n"
        )
    await stream.publish(stream.changes.envelopes(target_body_bytes=2000))
    # WHEN the reader has its lines
    piped = ToPipe(stream, to_stdout.directory)
    process = piped.start("--epoch-bytes", "64kB")
    first = await asyncio.to_thread(head, process, 3)
    assert await asyncio.to_thread(wait_end, process) == Exit.DONE, piped.tail()
    assert [int(event["key"]["id"]) for event in first] == [1, 2, 3]
    # THEN the next run goes on behind what the pipe took: what the reader left in there is gone
    # with it, nothing else
    assert await asyncio.to_thread(to_stdout.run) == Exit.DONE
    rest = to_stdout.events()
    assert rest, "not all of it was taken"
    total = source.value("SELECT count(*) FROM t")
    ids = {int(event["key"]["id"]) for event in rest}
    assert max(ids) == total
    assert len(ids) == max(ids) - min(ids) + 1
    pipe_bytes = 64 * 1024
    assert min(ids) * 500 < pipe_bytes * 3


class ToFullDisk(ToStdout):
    """A sink whose output has no room."""

    def output(self) -> Any:  # noqa: ANN401 - a file object
        """Open the device that is always full."""
        return Path("/dev/full").open("ab")


async def test_a_full_disk_stops_it(to_stdout: ToStdout, stream: Stream) -> None:
    stream.changes.source.execute("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
    await stream.publish(stream.changes.envelopes())
    full = ToFullDisk(stream, to_stdout.directory)
    assert await asyncio.to_thread(full.run) == Exit.SINK
    assert "No space left on device" in full.tail()


async def test_a_name_that_another_kind_of_sink_had_is_refused(
    to_stdout: ToStdout, stream: Stream
) -> None:
    stream.changes.source.execute("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
    await stream.publish(stream.changes.envelopes())
    assert await asyncio.to_thread(to_stdout.run) == Exit.DONE
    # WHEN a name stands for a file, from one start to the next
    known = (await stream.record.sinks())["stdout"]
    await stream.record.put_sink(replace(known, kind="file"))
    # THEN what that file has is not taken for printed
    assert await asyncio.to_thread(to_stdout.run) == Exit.USAGE
    told = to_stdout.failure()
    assert "of the kind file, not stdout" in told["detail"]
    assert "--sink stdout" in told["hint"]


def test_pretty_shows_what_changed() -> None:
    line = (
        b'{"id":"g:1:0/1:2","op":"update","schema":"public","table":"t","key":{"id":1},'
        b'"new":{"id":1,"n":1.50,"v":"a\\nb"},"old":{"id":1,"n":1,"v":"a\\nb"},"unchanged":["doc"],'
        b'"commit_lsn":"0/1","ordinal":2,"xid":7,"commit_time":"2026-01-01T00:00:00.000000+00:00",'
        b'"group":"g"}'
    )
    assert pretty(line).decode() == (
        "2026-01-01 00:00:00.000000+00:00  update public.t  id=1\n"
        "    n: 1 -> 1.50\n"
        '    v: "a\\nb"\n'
        "    doc: (unchanged)\n"
    )
