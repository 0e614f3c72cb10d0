"""Slow decoder of what a walsender wraps around pgoutput: CopyData payloads `w` and `k`.

Source: chapter "Streaming Replication Protocol". Upstream: a pump block, `[u32 length][payload]`*.
Invariant: every byte of a payload is accounted for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tests.oracle.wire import MalformedError, Reader, split_lengths


@dataclass(frozen=True)
class WalData:
    """`w`: one pgoutput message. Its `start_lsn` names no position: relation messages carry 0."""

    start_lsn: int
    end_lsn: int
    sent_us: int
    message: bytes


@dataclass(frozen=True)
class Keepalive:
    """`k`: everything before `end_lsn` has been decoded and sent."""

    end_lsn: int
    sent_us: int
    reply_requested: bool


Frame: TypeAlias = WalData | Keepalive


def decode_frame(payload: bytes) -> Frame:
    """Decode one CopyData payload that came down a replication connection."""
    reader = Reader(payload)
    kind = reader.take(1)
    if kind == b"w":
        start_lsn, end_lsn, sent_us = reader.u64(), reader.u64(), reader.i64()
        return WalData(start_lsn, end_lsn, sent_us, payload[reader.at :])
    if kind == b"k":
        end_lsn, sent_us, reply = reader.u64(), reader.i64(), reader.u8()
        reader.end()
        return Keepalive(end_lsn, sent_us, reply != 0)
    raise MalformedError(f"CopyData kind {kind!r}")


def decode_block(block: bytes) -> list[Frame]:
    """Decode `[u32 length][payload]`*."""
    return [decode_frame(payload) for payload in split_lengths(block)]
