"""What worker and child processes tell each other, as JSON over their pipes.

`pgflo.worker` tells the order of the messages.

Upstream and downstream: `child` on the worker's side, `writer` and `copy_writer` on the other.
Invariant: a message is read back as the type it was written from. Envelopes travel beside, as they
are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from pgflo import errors
from pgflo.errors import Kind, PgfloError

if TYPE_CHECKING:
    from pgflo.sinks.contract import Ruled

Row = tuple[int, int, int, int]
"""Another shard's progress row: (shard, fence, commit_lsn, ordinal)."""


@dataclass(frozen=True, slots=True)
class Step:
    """To the writer: `envelopes` envelopes follow; `commits`: they end a transaction there.

    `rows` makes it a barrier: the changes are those of all shards, and their rows move with ours.
    `assignment` is to be written in the same transaction, if there is one.
    """

    envelopes: int
    commits: bool
    rows: list[Row] = field(default_factory=list)
    assignment: str = ""


@dataclass(frozen=True, slots=True)
class Slice:
    """To the writer: what concerns it between two positions of the stream.

    `has_body`: a body follows; without one there is nothing. `rows` as in `Step`.
    """

    prev: tuple[int, int]
    end: tuple[int, int]
    end_lsn: int
    commits: bool
    has_body: bool
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Moved:
    """To the writer, which does not answer: a barrier has moved its row to here."""

    commit_lsn: int
    ordinal: int
    end_lsn: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From the writer: the progress row is taken; this is what its shard has."""

    incarnation: str
    commit_lsn: int
    ordinal: int
    end_lsn: int
    fence: int


@dataclass(frozen=True, slots=True)
class Done:
    """From the writer: a step is applied, and committed if it was to be.

    `changes`, `conflicts` and `rules` are those of the whole transaction, told when it commits.
    """

    committed: bool
    changes: int = 0
    conflicts: dict[str, int] = field(default_factory=dict)
    rules: list[Ruled] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lane:
    """To a copy writer: read this lane from `start_seq` on, until `patience_s` of silence."""

    lane: int
    start_seq: int
    patience_s: float


@dataclass(frozen=True, slots=True)
class Copied:
    """From a copy writer: this range is committed, now or by a former run."""

    lane: int
    seq: int
    """Stream sequence of its final part."""
    oid: int
    snapshot_lsn: int
    range_no: int
    rows: int
    is_new: bool
    rules: list[Ruled] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Left:
    """From a copy writer: the lane is given back."""

    lane: int


@dataclass(frozen=True, slots=True)
class Failed:
    """From any child, as its last word."""

    code: str
    detail: str
    hint: str
    context: dict[str, str | int]

    KINDS: ClassVar[dict[str, Kind]] = {
        kind.code: kind for kind in vars(errors).values() if isinstance(kind, Kind)
    }

    @classmethod
    def of(cls, error: PgfloError) -> Failed:
        """Pack an error."""
        return cls(error.kind.code, error.detail, error.hint, dict(error.context))

    def error(self) -> PgfloError:
        """Unpack it."""
        context: dict[str, Any] = dict(self.context)
        return PgfloError(self.KINDS[self.code], self.detail, hint=self.hint, **context)


Message = Step | Slice | Moved | Ready | Done | Lane | Copied | Left | Failed

TYPES: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Step, Slice, Moved, Ready, Done, Lane, Copied, Left, Failed)
}


def encode(message: Message) -> bytes:
    """Write a message with its type's name."""
    values = {name.name: getattr(message, name.name) for name in fields(message)}
    return orjson.dumps([type(message).__name__, values])


def decode(data: bytes) -> Message:
    """Read a message. Both ends are of one build: anything unknown is a mistake of ours."""
    name, values = orjson.loads(data)
    return TYPES[name](**values)
