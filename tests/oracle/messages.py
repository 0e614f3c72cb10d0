"""The messages of pgoutput protocol 1 as plain values.

Owns the vocabulary shared by the slow decoder (`pgoutput`), the encoder (`encode`) and the
reference for what an assembler must deliver (`changes`). Nothing here knows a byte.
Invariant: every value is immutable and compares by content: two decoders agree iff `==` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

CellKind: TypeAlias = Literal["n", "u", "t", "b"]
Cell: TypeAlias = tuple[CellKind, bytes]
"""`n` NULL (in a key tuple also: no part of the key), `u` unchanged TOAST, `t` text, `b` binary."""

Row: TypeAlias = tuple[Cell, ...]

NULL: Cell = ("n", b"")
UNCHANGED: Cell = ("u", b"")


@dataclass(frozen=True)
class Begin:
    """`B`: a committed transaction starts. `final_lsn` is the LSN of its commit record."""

    final_lsn: int
    commit_time_us: int
    xid: int


@dataclass(frozen=True)
class Commit:
    """`C`: it is complete. `end_lsn` is the first byte after its commit record."""

    flags: int
    commit_lsn: int
    end_lsn: int
    commit_time_us: int


@dataclass(frozen=True)
class Origin:
    """`O`: the transaction was replayed at the source from somewhere else."""

    origin_lsn: int
    name: bytes


@dataclass(frozen=True)
class RelationColumn:
    """One column of `R`. `flags` bit 0: part of the replica identity key."""

    flags: int
    name: bytes
    type_oid: int
    typmod: int


@dataclass(frozen=True)
class Relation:
    """`R`: how the table looks from here on. `schema` is empty for pg_catalog."""

    oid: int
    schema: bytes
    name: bytes
    replica_identity: bytes
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True)
class Type:
    """`Y`: name of a type that is not built in."""

    oid: int
    schema: bytes
    name: bytes


@dataclass(frozen=True)
class Insert:
    """`I`."""

    relation_oid: int
    new: Row


@dataclass(frozen=True)
class Update:
    """`U`. `old_kind` is `K` (old key), `O` (old row) or empty."""

    relation_oid: int
    old_kind: Literal["", "K", "O"]
    old: Row | None
    new: Row


@dataclass(frozen=True)
class Delete:
    """`D`."""

    relation_oid: int
    old_kind: Literal["K", "O"]
    old: Row


@dataclass(frozen=True)
class Truncate:
    """`T`. Options: bit 0 CASCADE, bit 1 RESTART IDENTITY."""

    options: int
    relation_oids: tuple[int, ...]


@dataclass(frozen=True)
class LogicalMessage:
    """`M`: what pg_logical_emit_message wrote. `flags` bit 0: part of its transaction."""

    flags: int
    lsn: int
    prefix: bytes
    content: bytes

    @property
    def transactional(self) -> bool:
        """Whether it stands inside a transaction and commits or vanishes with it."""
        return self.flags & 1 == 1


Message: TypeAlias = (
    Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | LogicalMessage
)
