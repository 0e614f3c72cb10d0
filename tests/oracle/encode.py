"""The other direction of `pgoutput` and `copydata`: what a walsender would have written.

Used to generate input for both decoders. Invariant: `decode(encode(x)) == x` for every message; it
is written independently of the decoder (struct formats here, single reads there).
"""

from __future__ import annotations

import struct

from tests.oracle.messages import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    Row,
    Truncate,
    Type,
    Update,
)


def encode(message: Message) -> bytes:
    """Return the bytes of one pgoutput message, its kind byte first."""
    match message:
        case Begin():
            return struct.pack(
                ">cQqI", b"B", message.final_lsn, message.commit_time_us, message.xid
            )
        case Commit():
            return struct.pack(
                ">cBQQq",
                b"C",
                message.flags,
                message.commit_lsn,
                message.end_lsn,
                message.commit_time_us,
            )
        case Origin():
            return struct.pack(">cQ", b"O", message.origin_lsn) + message.name + b"\0"
        case Relation():
            return _relation(message)
        case Type():
            return b"".join([struct.pack(">cI", b"Y", message.oid), _names(message)])
        case Insert() | Update() | Delete():
            return _row_change(message)
        case Truncate():
            count = len(message.relation_oids)
            return struct.pack(
                f">ciB{count}I", b"T", count, message.options, *message.relation_oids
            )
        case LogicalMessage():
            head = struct.pack(">cBQ", b"M", message.flags, message.lsn)
            size = struct.pack(">i", len(message.content))
            return head + message.prefix + b"\0" + size + message.content


def _names(named: Relation | Type) -> bytes:
    return named.schema + b"\0" + named.name + b"\0"


def _relation(relation: Relation) -> bytes:
    parts = [struct.pack(">cI", b"R", relation.oid), _names(relation), relation.replica_identity]
    parts.append(struct.pack(">H", len(relation.columns)))
    for column in relation.columns:
        parts.append(struct.pack(">B", column.flags) + column.name + b"\0")
        parts.append(struct.pack(">Ii", column.type_oid, column.typmod))
    return b"".join(parts)


def _row(row: Row) -> bytes:
    parts = [struct.pack(">H", len(row))]
    for kind, content in row:
        parts.append(kind.encode())
        if kind in "tb":
            parts.append(struct.pack(">i", len(content)) + content)
    return b"".join(parts)


def _row_change(change: Insert | Update | Delete) -> bytes:
    oid = struct.pack(">I", change.relation_oid)
    match change:
        case Insert():
            return b"I" + oid + b"N" + _row(change.new)
        case Update(old=None):
            return b"U" + oid + b"N" + _row(change.new)
        case Update(old=old):
            assert old is not None
            return b"U" + oid + change.old_kind.encode() + _row(old) + b"N" + _row(change.new)
        case Delete():
            return b"D" + oid + change.old_kind.encode() + _row(change.old)


def wal_data(message: bytes, *, start_lsn: int, end_lsn: int, sent_us: int = 0) -> bytes:
    """Wrap a message as the CopyData payload `w`."""
    return struct.pack(">cQQq", b"w", start_lsn, end_lsn, sent_us) + message


def keepalive(*, end_lsn: int, sent_us: int = 0, reply_requested: bool = False) -> bytes:
    """Build the CopyData payload `k`."""
    return struct.pack(">cQqB", b"k", end_lsn, sent_us, reply_requested)
