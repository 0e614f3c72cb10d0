"""The file that is being written: lines go behind its committed end, and are cut off again.

Upstream: `outlet`. Downstream: a file with `.part` behind its name.
Invariant: what stands before the committed end never changes. With compression each commit ends a
member (gzip) or frame (zstd), so that the file reads as a whole at every commit.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import zlib
from typing import TYPE_CHECKING, Protocol

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.sinks.output import write_all

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from pathlib import Path

EXTENSIONS = {"none": "", "gzip": ".gz", "zstd": ".zst"}
READ_BYTES = 1024 * 1024
GZIP_LEVEL = 6
GZIP_WINDOW = 16 + zlib.MAX_WBITS


class Compressor(Protocol):
    """What gzip and zstd have in common."""

    def compress(self, data: bytes, /) -> bytes:
        """Take data, give what is ready."""
        ...

    def flush(self) -> bytes:
        """Give the rest, with the end of the member or frame."""
        ...


class Part:
    """An open part. Raises `OSError`."""

    def __init__(self, path: Path, compression: str) -> None:
        self.path = path
        self._compression = compression
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._hash = hashlib.sha256()
        self._committed_hash = self._hash.copy()
        self._compressor: Compressor | None = None
        self.bytes = 0
        """Committed."""
        self._written_bytes = 0

    def recover(self, committed_bytes: int, sha256: str) -> None:
        """Cut off what was not committed. Raises `PgfloError` if what was is not there any more."""
        left = committed_bytes
        while left and (block := os.read(self._descriptor, min(left, READ_BYTES))):
            self._hash.update(block)
            left -= len(block)
        if left or (committed_bytes and self._hash.hexdigest() != sha256):
            raise PgfloError(
                errors.SINK_FILE_CHANGED,
                f"{self.path}: the first {committed_bytes} bytes are not those that were written",
                file=self.path.name,
            )
        self._committed_hash = self._hash.copy()
        self.bytes = self._written_bytes = committed_bytes
        self._cut()

    def write(self, lines: bytes) -> None:
        """Append lines."""
        if self._compression != "none":
            if self._compressor is None:
                self._compressor = _compressor(self._compression)
            lines = self._compressor.compress(lines)
        self._append(lines)

    def sync(self) -> str:
        """Make everything written durable; give the digest of the file."""
        if self._compressor is not None:
            self._append(self._compressor.flush())
            self._compressor = None
        os.fdatasync(self._descriptor)
        self._committed_hash = self._hash.copy()
        self.bytes = self._written_bytes
        return self._hash.hexdigest()

    def roll_back(self) -> None:
        """Cut off what was written since the last `sync`."""
        self._compressor = None
        self._hash = self._committed_hash.copy()
        self._written_bytes = self.bytes
        self._cut()

    def finish(self, name: Path) -> None:
        """Give the file its name, under which it is complete."""
        self.close()
        self.path.replace(name)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    def _append(self, data: bytes) -> None:
        self._hash.update(data)
        write_all(self._descriptor, data)
        self._written_bytes += len(data)

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self.bytes)
        os.lseek(self._descriptor, 0, os.SEEK_END)


def _compressor(compression: str) -> Compressor:
    if compression == "gzip":
        return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW)
    return zstd.ZstdCompressor()


def read(path: Path) -> bytes:
    """Give the lines of a file, whatever it was compressed by."""
    content = path.read_bytes()
    suffix = path.name.removesuffix(".part").rpartition(".")[2]
    if suffix == "gz":
        return gzip.decompress(content)
    if suffix == "zst":
        return zstd.decompress(content)
    return content
