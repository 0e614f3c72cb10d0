"""What a crash leaves of the file sink's files is cut back to the last commit, at whatever byte."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.fix_sinks import committed
from tests.oracle.encode import encode
from tests.oracle.messages import Begin, Commit, Insert, Message, Relation, RelationColumn
from tests.oracle.wire import lengths_prefixed

from pgflo import _core, errors
from pgflo.config.settings import FileSettings, WorkerSettings
from pgflo.errors import PgfloError
from pgflo.sinks.contract import Mark, Opening, Range
from pgflo.sinks.file import FileOutlet, manifest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

INCARNATION = uuid.UUID(int=0x5F0C9A12 << 96)
START_LSN = 0x100


def opened(
    directory: Path,
    incarnation: uuid.UUID = INCARNATION,
    **fields: Any,  # noqa: ANN401 - fields of FileSettings
) -> FileOutlet:
    values = {"output_dir": directory / "files", **fields}
    settings = WorkerSettings(
        group="shop",
        kind="file",
        sink="file",
        file=FileSettings(**values),
        state_dir=directory,
    )
    return FileOutlet(Opening(settings, incarnation, START_LSN))


def changes(first: int, last: int) -> _core.Events:
    """Print inserts of these numbers, each its own transaction at a position of the same number."""
    scribe = _core.JsonScribe("shop", INCARNATION.bytes, {}, {})
    described = Relation(7, b"public", b"t", b"d", (RelationColumn(1, b"id", 23, -1),))
    messages: list[Message] = [described]
    for number in range(first, last):
        lsn = START_LSN + number
        row = Insert(7, (("t", str(number).encode()),))
        messages += [Begin(lsn, 0, 7), row, Commit(0, lsn, lsn + 1, 0)]
    return scribe.changes(lengths_prefixed(list(map(encode, messages))), (0, 0), (0, 0))


def commit(outlet: FileOutlet, last: int) -> None:
    outlet.commit(Mark((START_LSN + last - 1, 1), START_LSN + last))


def fill(outlet: FileOutlet, first: int, last: int) -> None:
    outlet.write(changes(first, last))
    commit(outlet, last)


def numbers(directory: Path) -> list[int]:
    return [int(event["new"]["id"]) for event in committed(directory / "files")]


def go_on(directory: Path, upto: int, **fields: Any) -> None:  # noqa: ANN401
    """Open again, and write what the stored position says is missing."""
    outlet = opened(directory, **fields)
    reached = outlet.stored().position[0]
    first = reached - START_LSN + 1 if outlet.stored().position[1] else 0
    fill(outlet, first, upto)
    outlet.close()


def cuts(path: Path, committed_bytes: int) -> Iterable[int]:
    return range(committed_bytes, path.stat().st_size + 1)


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
def test_a_part_cut_at_every_byte_of_its_tail_goes_on_with_every_change_once(
    tmp_path: Path, compress: str
) -> None:
    outlet = opened(tmp_path, compress=compress)
    fill(outlet, 0, 5)
    (part,) = (tmp_path / "files").glob("*.part")
    held = part.stat().st_size
    outlet.write(changes(5, 6))
    # As a sync that nobody booked leaves it: whole lines, and nothing in the manifest.
    assert outlet._part is not None
    outlet._part.sync()
    outlet.close()
    assert part.stat().st_size > held
    for size in cuts(part, held):
        again = tmp_path / f"cut{size}"
        shutil.copytree(tmp_path / "files", again / "files")
        with (again / "files" / part.name).open("r+b") as file:
            file.truncate(size)
        go_on(again, 9, compress=compress)
        assert numbers(again) == list(range(9))
        shutil.rmtree(again)


def test_a_manifest_cut_at_every_byte_of_its_last_line_goes_on_with_every_change_once(
    tmp_path: Path,
) -> None:
    outlet = opened(tmp_path)
    (path,) = (tmp_path / "files").glob("*.manifest.jsonl")
    fill(outlet, 0, 5)
    held = path.stat().st_size
    fill(outlet, 5, 6)
    outlet.close()
    for size in cuts(path, held):
        again = tmp_path / f"cut{size}"
        shutil.copytree(tmp_path / "files", again / "files")
        with (again / "files" / path.name).open("r+b") as file:
            file.truncate(size)
        go_on(again, 9)
        assert numbers(again) == list(range(9))
        shutil.rmtree(again)


def test_what_was_committed_and_is_gone_or_changed_is_refused(tmp_path: Path) -> None:
    outlet = opened(tmp_path)
    fill(outlet, 0, 5)
    fill(outlet, 5, 8)
    outlet.close()
    (part,) = (tmp_path / "files").glob("*.part")
    (path,) = (tmp_path / "files").glob("*.manifest.jsonl")
    whole, lines = part.read_bytes(), path.read_bytes()
    for file, content in (
        (part, whole[:-1]),
        (part, whole.replace(b'"id":3', b'"id":4')),
        (path, lines.replace(b'"rows":5', b'"rows":6')),
    ):
        before = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(PgfloError) as refused:
            opened(tmp_path)
        assert refused.value.kind is errors.SINK_FILE_CHANGED
        file.write_bytes(before)
    opened(tmp_path).close()


@pytest.mark.parametrize("is_named", [False, True])
def test_a_crash_while_a_file_gets_its_name_is_made_good(tmp_path: Path, is_named: bool) -> None:
    outlet = opened(tmp_path)
    fill(outlet, 0, 5)
    outlet.close()
    (part,) = (tmp_path / "files").glob("*.part")
    if is_named:
        part.replace(part.with_suffix(""))
    go_on(tmp_path, 9, max_bytes=1)
    assert numbers(tmp_path) == list(range(9))
    assert not list((tmp_path / "files").glob("*.part"))


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
def test_files_end_by_size_and_the_manifest_tells_all_of_them(
    tmp_path: Path, compress: str
) -> None:
    outlet = opened(tmp_path, max_bytes=600, compress=compress)
    for first in range(0, 40, 2):
        fill(outlet, first, first + 2)
    outlet.close()
    files = tmp_path / "files"
    (path,) = files.glob("*.manifest.jsonl")
    told = [json.loads(line) for line in path.read_bytes().splitlines()]
    complete = [entry for entry in told if entry["complete"]]
    assert len(complete) >= 5
    names = [entry["file"] for entry in complete]
    assert names == sorted(names)
    assert all((files / name).exists() for name in names)
    for entry in complete:
        content = (files / entry["file"]).read_bytes()
        assert len(content) == entry["bytes"] >= 600
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert entry["first"] < entry["last"]
    assert numbers(tmp_path) == list(range(40))


def test_a_file_ends_when_its_time_is_over(tmp_path: Path) -> None:
    outlet = opened(tmp_path, rotate_interval_s=1e-6)
    outlet.idle()
    assert not list((tmp_path / "files").glob("*.jsonl.part"))
    fill(outlet, 0, 1)
    outlet.idle()
    outlet.close()
    assert len(list((tmp_path / "files").glob("*01.jsonl"))) == 1


def test_what_is_rolled_back_leaves_no_trace(tmp_path: Path) -> None:
    for compress in ("none", "gzip"):
        outlet = opened(tmp_path / compress, compress=compress)
        fill(outlet, 0, 3)
        outlet.write(changes(50, 60))
        outlet.roll_back()
        fill(outlet, 3, 5)
        outlet.close()
        assert numbers(tmp_path / compress) == list(range(5))


def test_ranges_of_the_copy_are_remembered_and_end_with_a_file(tmp_path: Path) -> None:
    outlet = opened(tmp_path)
    start = ((START_LSN, 0), START_LSN)
    outlet.write(changes(0, 3))
    outlet.commit(Mark(*start, Range(7, START_LSN, 0, 1), 3))
    outlet.commit(Mark(*start, Range(7, START_LSN, 1, 1), 0))
    outlet.close()
    outlet = opened(tmp_path)
    assert outlet.stored().ranges == {(7, START_LSN): {0: 3, 1: 0}}
    outlet.copied()
    fill(outlet, 3, 5)
    outlet.copied()  # as after each start
    assert outlet.stored().ranges == {(7, START_LSN): {0: 3, 1: 0}}
    outlet.close()
    assert len(list((tmp_path / "files").glob("*01.jsonl"))) == 1
    assert len(list((tmp_path / "files").glob("*02.jsonl.part"))) == 1


def test_a_group_that_begins_anew_leaves_the_former_files_complete(tmp_path: Path) -> None:
    outlet = opened(tmp_path)
    fill(outlet, 0, 5)
    outlet.write(changes(5, 7))
    outlet.close()
    outlet = opened(tmp_path, uuid.UUID(int=1))
    assert outlet.stored().position == (START_LSN, 0)
    outlet.close()
    assert numbers(tmp_path) == list(range(5))
    assert not list((tmp_path / "files").glob("*.part"))


def test_a_second_process_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgflo.sinks.file import outlet as module

    monkeypatch.setattr(module, "LOCK_LIMIT_S", 0.1)
    outlet = opened(tmp_path)
    with pytest.raises(PgfloError) as refused:
        opened(tmp_path)
    assert refused.value.kind is errors.SINK_FILE_LOCKED
    outlet.close()
    opened(tmp_path).close()


def test_the_manifest_drops_what_does_not_count_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "NEEDLESS_BYTES", 2000)
    outlet = opened(tmp_path, max_bytes=2000)
    for first in range(60):
        fill(outlet, first, first + 1)
    outlet.close()
    (path,) = (tmp_path / "files").glob("*.manifest.jsonl")
    told = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert sum(not entry["complete"] for entry in told) < 20
    assert numbers(tmp_path) == list(range(60))
    entry = manifest.Manifest(path)
    assert entry.last is not None
    assert manifest.decode(manifest.encode(replace(entry.last, rows=1))) is not None
    entry.close()
