"""The file sink: lines into parts, parts into files, and the manifest that says what counts.

Upstream: `lines`. Downstream: `part`, `manifest`.
Invariant: exactly once. The position stands in the manifest beside the length of the file that it
belongs to, so whatever a crash leaves behind that length is cut off and comes again.

| dies | then |
|---|---|
| before the part is synced, or before the manifest's line is whole | the part is cut back |
| after that | nothing |
| while a file is finished, before or after it got its name | it is finished when opened again |
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.sinks.contract import Mark, Opening, Outlet, Stored
from pgflo.sinks.file.manifest import Entry, Manifest, sync_directory
from pgflo.sinks.file.part import EXTENSIONS, Part
from pgflo.sinks.output import telling

if TYPE_CHECKING:
    from pathlib import Path

    from pgflo._core import Events
    from pgflo.config.settings import FileSettings
    from pgflo.sinks.contract import Ranges

ID_START = b'{"id":"'
LOCK_LIMIT_S = 5.0
"""A former worker on this machine that was killed needs a moment to end."""
LOCK_LOOK_S = 0.05


class FileOutlet(Outlet):
    """The files of one sink, open for appending."""

    idle_s: ClassVar[float | None] = 1.0

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening)
        if opening.settings.file is None:
            raise PgfloError(errors.CONFIG, "a file sink needs --file-output-dir")
        self._settings: FileSettings = opening.settings.file
        self._directory: Path = self._settings.output_dir
        stem = opening.group if opening.sink == "file" else f"{opening.group}-{opening.sink}"
        self._name = f"{stem}-{opening.incarnation.hex[:8]}"
        with telling(str(self._directory)):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = self._lock_directory(self._directory / f"{stem}.lock")
        self._manifest: Manifest | None = None
        self._part: Part | None = None
        try:
            with telling(str(self._directory)):
                self._open(stem)
        except BaseException:
            self._release()
            raise

    def _open(self, stem: str) -> None:
        begun = f"{self._name}.manifest.jsonl"
        for path in self._directory.glob(f"{stem}-{'[0-9a-f]' * 8}.manifest.jsonl"):
            if path.name != begun:
                self._finish_former(path)
        self._manifest = Manifest(self._directory / begun)
        start = (_core.lsn_format(self.opening.start_lsn), 0)
        self._entry = self._manifest.last or Entry(None, False, start, start[0])
        self._part = self._recover(self._entry)
        if self._entry.complete or (self._entry.file is not None and self._part is None):
            self._rotated()
        self._rows = 0
        """Written since the last commit."""
        self._first = self._last = ""

    def stored(self) -> Stored:
        """Tell what the manifest says."""
        ranges: Ranges = {}
        manifest = self._open_manifest()
        for entry in (*manifest.complete, self._entry):
            for oid, snapshot, number, rows in entry.ranges:
                ranges.setdefault((oid, _core.lsn_parse(snapshot)), {})[number] = rows
        return Stored(*self._entry.mark, ranges)

    def write(self, events: Events) -> None:
        """Append lines to the part."""
        data = events.data
        if not self._first:
            self._first = _id(data, 0)
        self._last = _id(data, data.rfind(b"\n", 0, len(data) - 1) + 1)
        if self._part is None:
            self._part = self._begin()
        with telling(str(self._part.path)):
            self._part.write(data)
        self._rows += events.count

    def commit(self, mark: Mark) -> None:
        """Sync the part, then write the manifest's line; begin another file where that is due."""
        entry = replace(
            self._entry,
            complete=False,
            position=(_core.lsn_format(mark.position[0]), mark.position[1]),
            end_lsn=_core.lsn_format(mark.end_lsn),
        )
        if mark.range is not None:
            snapshot = _core.lsn_format(mark.range.snapshot_lsn)
            done = (mark.range.oid, snapshot, mark.range.range_no, mark.rows)
            entry = replace(entry, ranges=[*entry.ranges, done])
        with telling(str(self._directory)):
            if self._part is not None and self._rows:
                entry = replace(
                    entry,
                    sha256=self._part.sync(),
                    bytes=self._part.bytes,
                    rows=entry.rows + self._rows,
                    first=entry.first or self._first,
                    last=self._last,
                )
            self._open_manifest().append(entry)
        self._entry = entry
        self._rows, self._first = 0, ""
        if entry.bytes >= self._settings.max_bytes:
            self._rotate()

    def roll_back(self) -> None:
        """Cut the part back to the last commit."""
        self._rows, self._first = 0, ""
        if self._part is not None:
            with telling(str(self._part.path)):
                self._part.roll_back()

    def copied(self) -> None:
        """End the file with the last copied rows, so that changes begin with one of their own."""
        if self._entry.ranges:
            self._rotate()

    def idle(self) -> None:
        """End a file whose time is over."""
        if self._entry.rows and time.time() - self._entry.began >= self._settings.rotate_interval_s:
            self._rotate()

    def finish(self) -> None:
        """End the file: whoever stopped us wants to read it."""
        self._rotate()

    def close(self) -> None:
        """Let go."""
        self._release()

    def _rotate(self) -> None:
        """Finish the file, if it has lines; all of them are committed."""
        if self._part is None or not self._entry.rows or self._rows:
            return
        with telling(str(self._part.path)):
            self._part.finish(self._directory / str(self._entry.file))
            self._part = None
            sync_directory(self._directory)
            self._rotated()

    def _rotated(self) -> None:
        """Book that the file has its name, and begin without one."""
        manifest = self._open_manifest()
        if not self._entry.complete:
            manifest.append(replace(self._entry, complete=True))
        self._entry = Entry(None, False, self._entry.position, self._entry.end_lsn)

    def _begin(self) -> Part:
        number = len(self._open_manifest().complete) + 1
        extension = EXTENSIONS[self._settings.compress]
        name = f"{self._name}-{number:010d}.jsonl{extension}"
        with telling(name):
            part = Part(self._directory / f"{name}.part", self._settings.compress)
            part.recover(0, "")
            sync_directory(self._directory)
        self._entry = replace(self._entry, file=name, began=time.time())
        return part

    def _recover(self, entry: Entry) -> Part | None:
        """Open the part of an entry and cut it back; none if the file was finished."""
        if entry.file is None or entry.complete:
            return None
        path = self._directory / f"{entry.file}.part"
        finished = self._directory / entry.file
        if not path.exists() and finished.exists():
            return None
        extension = entry.file.rpartition(".jsonl")[2]
        compression = next(name for name, known in EXTENSIONS.items() if known == extension)
        part = Part(path, compression)
        try:
            part.recover(entry.bytes, entry.sha256)
        except BaseException:
            part.close()
            raise
        return part

    def _finish_former(self, path: Path) -> None:
        """Finish the file of an incarnation that is over."""
        manifest = Manifest(path)
        try:
            entry = manifest.last
            if entry is None or entry.complete or not entry.rows:
                return
            part = self._recover(entry)
            if part is not None:
                part.finish(self._directory / str(entry.file))
                sync_directory(self._directory)
            manifest.append(replace(entry, complete=True))
        finally:
            manifest.close()

    def _lock_directory(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        ends_at = time.monotonic() + LOCK_LIMIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > ends_at:
                    os.close(descriptor)
                    raise PgfloError(
                        errors.SINK_FILE_LOCKED, f"another process holds {path}", file=path.name
                    ) from None
                time.sleep(LOCK_LOOK_S)
            else:
                return descriptor

    def _open_manifest(self) -> Manifest:
        if self._manifest is None:
            message = "the manifest is closed"
            raise RuntimeError(message)
        return self._manifest

    def _release(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None
        if self._manifest is not None:
            self._manifest.close()
            self._manifest = None
        os.close(self._lock)


def _id(data: bytes, line_at: int) -> str:
    """Give the id of the line that starts there."""
    start = line_at + len(ID_START)
    return data[start : data.index(b'"', start)].decode()
