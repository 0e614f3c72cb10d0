"""The manifest of the file sink: one JSON line for each commit, the last of which counts.

Upstream: `outlet`. Downstream: a file that people and loaders read, too: lines with
`"complete": true` name the files that are finished.
Invariant: a line counts only whole and with its checksum. A crash can leave a torn last line, which
is cut off; one in the middle was damaged by somebody, and then nothing is written.

Lines that later ones make needless are dropped by writing the manifest anew, beside the old one.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import orjson

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.sinks.output import write_all

if TYPE_CHECKING:
    from pathlib import Path

NEEDLESS_BYTES = 1024 * 1024
"""So much of lines that do not count any more is kept: rewriting costs a sync of the directory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit: a file up to it, and the position that it leads to."""

    file: str | None
    """Name of the finished file; it has `.part` behind it until `complete`. None: none is begun."""
    complete: bool
    position: tuple[str, int]
    """Commit LSN and ordinal of the last change that counts, here or in an earlier file."""
    end_lsn: str
    rows: int = 0
    """Lines of the file that count."""
    bytes: int = 0
    """Bytes of the file that count."""
    sha256: str = ""
    """Of these bytes."""
    first: str = ""
    """Id of the file's first line."""
    last: str = ""
    """Id of its last one."""
    began: float = 0.0
    """When the file was begun, s since 1970."""
    ranges: list[tuple[int, str, int, int]] = field(default_factory=list)
    """Ranges of the copy in the file: oid, LSN of the snapshot, number, rows."""

    @property
    def mark(self) -> tuple[tuple[int, int], int]:
        """Position and end LSN as numbers."""
        position = (_core.lsn_parse(self.position[0]), self.position[1])
        return position, _core.lsn_parse(self.end_lsn)


class Manifest:
    """The manifest of one incarnation, open for appending."""

    def __init__(self, path: Path) -> None:
        """Open, or make it. Raises `PgfloError` SINK_FILE_CHANGED, and `OSError`."""
        self._path = path
        self.complete: list[Entry] = []
        self.last: Entry | None = None
        """The entry that counts for the open file, and for the position."""
        self._needless_bytes = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        content = self._path.read_bytes()
        end = 0
        for line in content.splitlines(keepends=True):
            entry = decode(line)
            if entry is None:
                break
            end += len(line)
            self._take(entry, len(line))
        rest = content[end:]
        if any(decode(line) for line in rest.splitlines(keepends=True)[1:]):
            where = f"{self._path} is damaged at byte {end}"
            raise PgfloError(errors.SINK_FILE_CHANGED, where, file=self._path.name)
        if rest:
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def append(self, entry: Entry) -> None:
        """Commit: when this returns, it holds whatever happens."""
        line = encode(entry)
        write_all(self._descriptor, line)
        os.fdatasync(self._descriptor)
        self._take(entry, len(line))
        if self._needless_bytes > NEEDLESS_BYTES:
            self._write_anew()

    def _take(self, entry: Entry, line_bytes: int) -> None:
        if entry.complete:
            self.complete.append(entry)
        else:
            self._needless_bytes += line_bytes
        self.last = entry

    def _write_anew(self) -> None:
        kept = [*self.complete]
        if self.last is not None and not self.last.complete:
            kept.append(self.last)
        beside = self._path.with_suffix(".new")
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            write_all(descriptor, b"".join(map(encode, kept)))
            os.fsync(descriptor)
            beside.replace(self._path)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        sync_directory(self._path.parent)
        self._needless_bytes = 0

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


def encode(entry: Entry) -> bytes:
    """Write a line: the entry, and the checksum of what stands before that."""
    text = orjson.dumps(asdict(entry))[:-1]
    return text + b',"check":"%08x"}\n' % zlib.crc32(text)


def decode(line: bytes) -> Entry | None:
    """Read a line; None if it is not whole."""
    text, mark, check = line.rpartition(b',"check":"')
    if not mark or check != b'%08x"}\n' % zlib.crc32(text):
        return None
    values = orjson.loads(text + b"}")
    values["position"] = tuple(values["position"])
    values["ranges"] = [tuple(each) for each in values["ranges"]]
    return Entry(**values)


def sync_directory(path: Path) -> None:
    """Make new names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
