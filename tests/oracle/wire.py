"""The primitive values of PostgreSQL's protocol: big-endian integers, C strings, lengths.

Downstream: `pgoutput`, `copydata`, `encode`, `envelope`. Invariant: a `Reader` never reads past its
end and never guesses; everything that is not there is a `MalformedError`.
"""

from __future__ import annotations

import struct


class MalformedError(ValueError):
    """The bytes are not what the protocol says they must be."""


class Reader:
    """Takes values off the front of `data`, one by one."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count < 0:
            raise MalformedError(f"negative length {count} at byte {self.at}")
        if self.at + count > len(self.data):
            raise MalformedError(f"{count} bytes wanted at byte {self.at} of {len(self.data)}")
        piece = self.data[self.at : self.at + count]
        self.at += count
        return piece

    def _unpack(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def u8(self) -> int:
        """Take one unsigned byte."""
        return self._unpack(">B")

    def count16(self) -> int:
        """Take an Int16 that counts something."""
        count = self._unpack(">h")
        if count < 0:
            raise MalformedError(f"negative count {count} before byte {self.at}")
        return count

    def flags(self, known: int) -> int:
        """Take a byte of which only the bits in `known` mean something."""
        value = self.u8()
        if value & ~known:
            raise MalformedError(f"unknown flags {value:#x} before byte {self.at}")
        return value

    def u32(self) -> int:
        """Take an unsigned Int32 (OIDs, xids)."""
        return self._unpack(">I")

    def i32(self) -> int:
        """Take a signed Int32 (lengths, type modifiers)."""
        return self._unpack(">i")

    def u64(self) -> int:
        """Take an unsigned Int64 (LSNs)."""
        return self._unpack(">Q")

    def i64(self) -> int:
        """Take a signed Int64 (timestamps)."""
        return self._unpack(">q")

    def string(self) -> bytes:
        """Take a NUL-terminated string in UTF-8 (the session's encoding), without the NUL."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise MalformedError(f"string at byte {self.at} has no end")
        text = self.take(end - self.at)
        self.take(1)
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"string before byte {self.at} is not UTF-8") from error
        return text

    def end(self) -> None:
        """Refuse bytes that nobody asked for."""
        if self.at != len(self.data):
            raise MalformedError(f"{len(self.data) - self.at} bytes too many")


def lengths_prefixed(pieces: list[bytes]) -> bytes:
    """Join pieces as `[u32 length][piece]`*: the form of a pump block and of a change body."""
    return b"".join(struct.pack(">I", len(piece)) + piece for piece in pieces)


def split_lengths(data: bytes) -> list[bytes]:
    """Undo `lengths_prefixed`."""
    reader = Reader(data)
    pieces = []
    while reader.at < len(data):
        pieces.append(reader.take(reader.u32()))
    return pieces
