"""Slow reader of envelopes, written from the table in rust/core/src/envelope/header.rs.

Upstream: what an assembler or a packer made. Downstream: tests, which compare what it
tells with `changes`. Invariant: every byte of the header is looked at, the checksum is computed
bit by bit here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache

from tests.oracle.changes import Position, Reading
from tests.oracle.messages import Begin
from tests.oracle.pgoutput import decode_body
from tests.oracle.wire import MalformedError

LAYOUT = struct.Struct(">4sBBHII16sQQQQQqQIIIIIIQQQI")
CRC32C_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, bits reversed."""


@dataclass(frozen=True)
class Parsed:
    """All fields of a header, in their order, and the body behind it."""

    kind: int
    flags: int
    incarnation: bytes
    prev: Position
    position: Position
    end_lsn: int
    commit_time_us: int
    changes: int
    part: int
    parts: int
    relation_oid: int
    range_no: int
    attempt: int
    part_no: int
    snapshot_lsn: int
    rows: int
    total_rows: int
    layout: int
    body: bytes

    @property
    def transaction_open(self) -> bool:
        """Whether it ends inside a transaction."""
        return self.flags & 1 == 1

    @property
    def final(self) -> bool:
        """Whether it is the last of its attempt at a range."""
        return self.flags & 2 == 2

    @property
    def binary(self) -> bool:
        """Whether it holds rows of COPY's binary format."""
        return self.flags & 4 == 4


@cache
def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (CRC32C_POLYNOMIAL if byte & 1 else 0)
    return byte


def crc32c(data: bytes) -> int:
    """Compute CRC-32C (RFC 3720)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _crc_of_byte((crc ^ byte) & 0xFF)
    return crc ^ 0xFFFFFFFF


def parse(envelope: bytes) -> Parsed:
    """Read one envelope and check magic, format, length and checksum."""
    if len(envelope) < LAYOUT.size:
        raise MalformedError("too short for an envelope")
    head, body = envelope[: LAYOUT.size], envelope[LAYOUT.size :]
    magic, form, kind, flags, body_bytes, checksum, incarnation, *rest = LAYOUT.unpack(head)
    if (magic, form) != (b"pgfl", 1):
        raise MalformedError("not an envelope of this format")
    if body_bytes != len(body):
        raise MalformedError("another length")
    if checksum != crc32c(head[:12] + bytes(4) + head[16:] + body):
        raise MalformedError("checksum differs")
    prev_lsn, prev_ordinal, commit_lsn, ordinal, *numbers = rest
    positions = (prev_lsn, prev_ordinal), (commit_lsn, ordinal)
    fields = [kind, flags, incarnation, *positions, *numbers, body]
    return Parsed(*fields)


def read_envelopes(envelopes: list[bytes], position: Position, end_lsn: int) -> Reading:
    """Read a chain of change envelopes and watermarks that starts at `position`.

    Checks what a reader relies on: no gap in the chain, parts complete and equal but for their
    number, each body understandable alone, a transaction that was left open continued first, and
    every header true.
    """
    reading = Reading(position, end_lsn)
    left_open = position[1] > 0 and position[0] >= end_lsn
    ahead = [parse(envelope) for envelope in envelopes]
    while ahead:
        first = ahead[0]
        pieces, ahead = ahead[: first.parts], ahead[first.parts :]
        _check_parts(pieces)
        if first.prev != reading.position:
            raise MalformedError(f"gap: {first.prev} after {reading.position}")
        body = b"".join(piece.body for piece in pieces)
        if left_open != _continues(body, first.prev):
            raise MalformedError(f"a transaction is left open, or begun again, at {first.prev}")
        left_open = first.transaction_open
        if first.kind == 2:
            _take_watermark(reading, first)
        else:
            _take_body(reading, first, body)
    return reading


def _continues(body: bytes, prev: Position) -> bool:
    """Tell whether a body starts with the rest of the transaction that `prev` lies in."""
    begin = next(iter(decode_body(body)), None)
    return isinstance(begin, Begin) and begin.final_lsn == prev[0] and prev[1] > 0


def _check_parts(pieces: list[Parsed]) -> None:
    first = pieces[0]
    if [piece.part for piece in pieces] != list(range(first.parts)):
        raise MalformedError("parts are missing or out of order")
    shared = {
        (p.kind, p.flags, p.prev, p.position, p.end_lsn, p.changes, p.commit_time_us)
        for p in pieces
    }
    if len(shared) != 1 or first.kind not in (1, 2):
        raise MalformedError("parts that do not belong together")


def _take_watermark(reading: Reading, mark: Parsed) -> None:
    if mark.body or mark.position != (mark.end_lsn, 0) or mark.end_lsn <= reading.end_lsn:
        raise MalformedError("a watermark that says nothing true")
    reading.position, reading.end_lsn = mark.position, mark.end_lsn


def _take_body(reading: Reading, header: Parsed, body: bytes) -> None:
    # Each body is read with nothing known before it, but the place where the last one ended.
    alone = Reading(reading.position, reading.end_lsn, carried=reading.position)
    for message in decode_body(body):
        alone.read(message)
    # Commits without changes are not in the body, only in the end that the header tells.
    told = (header.position, header.transaction_open, header.changes, header.commit_time_us)
    found = (alone.position, alone.open is not None, len(alone.changes), alone.commit_time_us)
    if told != found or header.end_lsn < alone.end_lsn:
        raise MalformedError(f"header tells {told}, body holds {found}")
    reading.position, reading.end_lsn = header.position, header.end_lsn
    reading.changes += alone.changes
