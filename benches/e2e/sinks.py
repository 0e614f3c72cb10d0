"""JSON lines: one backlog into stdout, files and a webhook's receiver, and what `cat` needs for it.

Upstream: `loads.py`. Downstream: `contenders.py`, `receiver.py`. All sinks are registered while
nobody reads; then the source writes. First replicator and stdout sink empty the backlog together,
from the source on. The change stream then holds all of it for the other sinks, each of which takes
it from there alone. A time ends with the worker's process, when the position is durable as well.
Invariant: after each piece every change is in what came, once and in order, and the last one of
each row is the source's row.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from psycopg import sql

from benches.e2e import backlog, roles
from benches.e2e.contenders import Pgflo
from benches.e2e.loads import SOURCE_DB
from benches.e2e.observe import Piece, watched_pgflo
from benches.e2e.usage import MB
from pgflo._core import lsn_parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from benches.e2e.bed import Bed
    from benches.e2e.loads import Load

LIMIT_S = 600.0
WEBHOOK_BATCH = 100
FROM_SOURCE = "stdout, from the source"
NO_TARGET = "postgres"
"""Nothing is written to the destination server."""


@dataclass(frozen=True)
class Round:
    """What one backlog cost each sink."""

    changes: int
    json_bytes: int
    cat_s: float
    pieces: dict[str, Piece]

    def peaks_mb(self) -> dict[str, float]:
        """Give the peak memory of each of our processes, by sink and role."""
        return {
            f"{name}, {role}": cost.peak_bytes / MB
            for name, piece in self.pieces.items()
            for role, cost in piece.costs.items()
            if roles.is_pgflo(role)
        }


@dataclass(frozen=True)
class Outputs:
    """Where the sinks of a round write."""

    directory: Path

    @property
    def files(self) -> Path:
        """Of the file sink."""
        return self.directory / "files"

    @property
    def bodies(self) -> Path:
        """Of the receiver."""
        return self.directory / "bodies"

    def lines(self, sink: str) -> Path:
        """Of a stdout sink."""
        return self.directory / f"{sink}.jsonl"


def one_round(bed: Bed, load: Load, number: int) -> Round:
    """Build the backlog once and let every sink have it."""
    load.prepare(bed)
    out = Outputs(bed.directory / f"sinks_{number}")
    out.directory.mkdir()
    ours = Pgflo(bed, f"sinks_{number}", SOURCE_DB, NO_TARGET)
    with _receiver(out.bodies) as port:
        workers = _workers(out, port)
        _register(ours, load, workers, out)
        changes = load.write(bed) + 1
        backlog.close_backlog(bed, load)
        until = ("--until", _end_of_log(bed))
        pieces = {FROM_SOURCE: _timed(bed, ours, out, "both", workers["both"], until, load)}
        for name in ("stdout", "file", "webhook"):
            pieces[name] = _timed(bed, ours, out, name, workers[name], until)
    ours.forget()
    rows = _source_rows(bed, load)
    lines = out.lines("stdout")
    _check(lines.open("rb"), changes, rows)
    _check(out.lines("both").open("rb"), changes, rows)
    _check(_file_lines(out.files), changes, rows)
    _check(_body_lines(out.bodies), changes, rows)
    result = Round(changes, lines.stat().st_size, _cat_s(lines), pieces)
    subprocess.run(["rm", "-r", str(out.directory)], check=True)
    return result


def _end_of_log(bed: Bed) -> str:
    with bed.connect(bed.source, SOURCE_DB) as conn:
        row = conn.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])


def _workers(out: Outputs, port: int) -> dict[str, tuple[str, ...]]:
    batch = ("--webhook-batch", str(WEBHOOK_BATCH))
    return {
        "both": ("stdout", "--sink", "both"),
        "stdout": ("stdout",),
        "file": ("file", "--file-output-dir", str(out.files)),
        "webhook": ("webhook", "--webhook-url", f"http://127.0.0.1:{port}/", *batch),
    }


def _register(ours: Pgflo, load: Load, workers: dict[str, tuple[str, ...]], out: Outputs) -> None:
    """Make the slot, and have every sink known before the first change."""
    # It is stopped, for one that ends by itself leaves word that nothing more comes.
    replicator = ours.start("replicate", *load.flags())
    started = []
    for name, arguments in workers.items():
        with out.lines(name).open("ab") as stdout:
            started.append(ours.start("worker", *arguments, "--once", stdout=stdout))
    for process in started:
        ours.finish(process, LIMIT_S)
    replicator.terminate()
    ours.finish(replicator, LIMIT_S)


def _timed(
    bed: Bed,
    ours: Pgflo,
    out: Outputs,
    name: str,
    arguments: tuple[str, ...],
    until: tuple[str, ...],
    load: Load | None = None,
) -> Piece:
    """Run a worker until it has all; with `load` the replicator that feeds it as well."""
    with out.lines(name).open("ab") as stdout, bed.connect(bed.target, NO_TARGET) as target:
        started = time.monotonic()
        processes = [ours.start("worker", *arguments, *until, stdout=stdout)]
        if load is not None:
            processes.append(ours.start("replicate", *load.flags(), *until))
        with watched_pgflo(ours, processes, target) as usage:
            ours.finish(processes[0], LIMIT_S)
            elapsed = time.monotonic() - started
        for process in processes[1:]:
            ours.finish(process, LIMIT_S)
    return Piece(elapsed, usage.costs())


@contextlib.contextmanager
def _receiver(bodies: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "benches.e2e.receiver", str(bodies)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def _cat_s(lines: Path) -> float:
    """Copy the lines into another file, as they were."""
    copy = lines.with_suffix(".copy")
    with lines.open("rb") as source, copy.open("wb") as target:
        started = time.monotonic()
        subprocess.run(["cat"], stdin=source, stdout=target, check=True)
        return time.monotonic() - started


def _source_rows(bed: Bed, load: Load) -> dict[int, int]:
    """Give a hash of each row by id, of the only table of the load."""
    (table,) = load.tables
    query = sql.SQL("COPY (SELECT encode(to_jsonb(t)::text::bytea, 'hex') FROM {} t) TO STDOUT")
    with (
        bed.connect(bed.source, SOURCE_DB) as conn,
        conn.cursor().copy(query.format(sql.Identifier(table))) as copy,
    ):
        return dict(_hashed(orjson.loads(bytes.fromhex(row))) for (row,) in copy.rows())


def _hashed(row: dict[str, object]) -> tuple[int, int]:
    number = row["id"]
    assert isinstance(number, int)
    return number, hash(orjson.dumps(row, option=orjson.OPT_SORT_KEYS))


def _file_lines(directory: Path) -> Iterator[bytes]:
    """Read the files that the manifest calls complete."""
    (manifest,) = directory.glob("*.manifest.jsonl")
    for line in manifest.read_bytes().splitlines():
        entry = json.loads(line)
        if entry["complete"]:
            with (directory / entry["file"]).open("rb") as file:
                yield from file


def _body_lines(bodies: Path) -> Iterator[bytes]:
    with bodies.open("rb") as file:
        for array in file:
            yield from map(orjson.dumps, orjson.loads(array))


def _check(lines: Iterable[bytes], changes: int, rows: dict[int, int]) -> None:
    """Stop the run where what came is not what the source did."""
    found, before = 0, (0, 0)
    last: dict[int, int | None] = {}
    for line in lines:
        event = orjson.loads(line)
        place = (lsn_parse(event["commit_lsn"]), event["ordinal"])
        assert place > before, f"{event['id']} comes after {before}: a void run"
        before = place
        found += 1
        if event["op"] == "delete":
            last[event["key"]["id"]] = None
        else:
            number, digest = _hashed(event["new"])
            last[number] = digest
    assert found == changes, f"{found} of {changes} changes came: a void run"
    wrong = [number for number, known in last.items() if rows.get(number) != known]
    assert not wrong, f"{len(wrong)} rows differ, the first is {wrong[0]}: a void run"
