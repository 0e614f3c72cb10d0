"""Slow, obvious decoder of pgoutput protocol 1, written from PostgreSQL's documentation.

Source: chapter "Logical Replication Message Formats". Upstream: `wire`. Downstream: `changes` and
every test that asks whether the Rust decoder is right. Invariant: the two share no code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tests.oracle.messages import (
    NULL,
    UNCHANGED,
    Begin,
    Cell,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    RelationColumn,
    Row,
    Truncate,
    Type,
    Update,
)
from tests.oracle.wire import MalformedError, Reader, split_lengths

if TYPE_CHECKING:
    from collections.abc import Callable


def decode(message: bytes) -> Message:
    """Decode one message, all of it; raise `MalformedError` for anything else."""
    reader = Reader(message)
    kind = reader.take(1)
    form = _FORMS.get(kind)
    if form is None:
        raise MalformedError(f"message kind {kind!r} is not part of protocol 1")
    value = form(reader)
    reader.end()
    return value


def decode_body(body: bytes) -> list[Message]:
    """Decode `[u32 length][message]`*."""
    return [decode(message) for message in split_lengths(body)]


def _begin(reader: Reader) -> Begin:
    return Begin(final_lsn=reader.u64(), commit_time_us=reader.i64(), xid=reader.u32())


def _commit(reader: Reader) -> Commit:
    return Commit(
        flags=reader.flags(0),
        commit_lsn=reader.u64(),
        end_lsn=reader.u64(),
        commit_time_us=reader.i64(),
    )


def _origin(reader: Reader) -> Origin:
    return Origin(origin_lsn=reader.u64(), name=reader.string())


def _relation(reader: Reader) -> Relation:
    oid, schema, name, identity = reader.u32(), reader.string(), reader.string(), reader.take(1)
    if identity not in (b"d", b"n", b"f", b"i"):
        raise MalformedError(f"replica identity {identity!r}")
    columns = tuple(_relation_column(reader) for _ in range(reader.count16()))
    return Relation(oid, schema, name, identity, columns)


def _relation_column(reader: Reader) -> RelationColumn:
    return RelationColumn(
        flags=reader.flags(1), name=reader.string(), type_oid=reader.u32(), typmod=reader.i32()
    )


def _type(reader: Reader) -> Type:
    return Type(oid=reader.u32(), schema=reader.string(), name=reader.string())


def _cell(reader: Reader) -> Cell:
    kind = reader.take(1)
    if kind == b"n":
        return NULL
    if kind == b"u":
        return UNCHANGED
    if kind == b"t":
        return "t", reader.take(reader.i32())
    if kind == b"b":
        return "b", reader.take(reader.i32())
    raise MalformedError(f"column kind {kind!r}")


def _row(reader: Reader) -> Row:
    return tuple(_cell(reader) for _ in range(reader.count16()))


def _marked(reader: Reader, wanted: bytes) -> str:
    mark = reader.take(1)
    if mark not in [wanted[i : i + 1] for i in range(len(wanted))]:
        raise MalformedError(f"tuple mark {mark!r}, expected one of {wanted!r}")
    return mark.decode()


def _old_kind(mark: str) -> Literal["K", "O"]:
    return "K" if mark == "K" else "O"


def _insert(reader: Reader) -> Insert:
    oid = reader.u32()
    _marked(reader, b"N")
    return Insert(oid, _row(reader))


def _update(reader: Reader) -> Update:
    oid = reader.u32()
    mark = _marked(reader, b"KON")
    if mark == "N":
        return Update(oid, "", None, _row(reader))
    old = _row(reader)
    _marked(reader, b"N")
    return Update(oid, _old_kind(mark), old, _row(reader))


def _delete(reader: Reader) -> Delete:
    oid = reader.u32()
    mark = _marked(reader, b"KO")
    return Delete(oid, _old_kind(mark), _row(reader))


def _truncate(reader: Reader) -> Truncate:
    count = reader.i32()
    if count < 0:
        raise MalformedError(f"negative number of relations {count}")
    options = reader.flags(3)
    return Truncate(options, tuple(reader.u32() for _ in range(count)))


def _logical_message(reader: Reader) -> LogicalMessage:
    flags, lsn, prefix = reader.flags(1), reader.u64(), reader.string()
    return LogicalMessage(flags, lsn, prefix, reader.take(reader.i32()))


_FORMS: dict[bytes, Callable[[Reader], Message]] = {
    b"B": _begin,
    b"C": _commit,
    b"O": _origin,
    b"R": _relation,
    b"Y": _type,
    b"I": _insert,
    b"U": _update,
    b"D": _delete,
    b"T": _truncate,
    b"M": _logical_message,
}
