# ruff: noqa: PYI021 - this stub is the reference of the native module, its docstrings are read.
"""The native core: pgoutput frames into envelopes, COPY rows into envelopes, libpq drained and fed.

Upstream: psycopg opens connections, the broker hands out envelopes. Downstream: `replicator` and
`worker`.
Every call takes and gives whole batches, releases the interpreter while it works, and raises
`CoreError` (or one of its two children) for every input it refuses, a panic included: no input ends
the process. `Buffer` arguments: `bytes` are read in place; `bytearray` and other contiguous buffers
are copied once. LSNs are ints; a position is `(commit_lsn, ordinal)`; ordinals count I, U, D, T and
transactional M inside their transaction, from 1. Objects may be handed between threads; two calls
on the same object wait for each other.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol, TypeAlias, final

from typing_extensions import Buffer

__all__ = [
    "HASH_VERSION",
    "HEADER_BYTES",
    "KIND_CHANGES",
    "KIND_COPY",
    "KIND_WATERMARK",
    "PROFILE",
    "PUMP_END",
    "PUMP_FAILED",
    "PUMP_IDLE",
    "PUMP_MORE",
    "STEP_DONE",
    "STEP_FAILED",
    "STEP_MESSAGE",
    "STEP_RELATION",
    "STEP_STATEMENT",
    "STEP_TRUNCATE",
    "VERSION",
    "Assembler",
    "BinaryToText",
    "Column",
    "CopyPacker",
    "CopyRewriter",
    "CoreError",
    "DecodeError",
    "Envelope",
    "EnvelopeError",
    "Events",
    "Group",
    "Header",
    "JsonRows",
    "JsonScribe",
    "NetEffect",
    "Program",
    "Pump",
    "Relation",
    "Replay",
    "Rewriter",
    "Route",
    "Routed",
    "RuleSet",
    "RulesError",
    "Shape",
    "Splitter",
    "Statement",
    "Step",
    "decode_messages",
    "has_binary_form",
    "lsn_format",
    "lsn_parse",
    "read_header",
    "sift",
]

VERSION: Final[str]
"""Version of the package that this extension was built from."""
PROFILE: Final[str]
"""Either release, or debug: at least ten times slower, fit for tests only."""

KIND_CHANGES: Final = 1
"""Kind of an envelope whose body is `([u32 BE length][pgoutput message])*`."""
KIND_WATERMARK: Final = 2
"""Kind of an envelope without a body: nothing more up to its `end_lsn`."""
KIND_COPY: Final = 3
"""Kind of an envelope whose body is a piece of COPY rows."""
HASH_VERSION: Final[int]
"""Another number whenever `Splitter` may give a key another shard than before."""
HEADER_BYTES: Final[int]
"""Length of an envelope's header; the body is everything behind it."""

class CoreError(Exception):
    """The core refused. The text tells reason, message kind and offset, never a row value."""

    offset: int
    """Where in the buffer passed in, in bytes; 0 if that says nothing."""
    message_kind: str
    """The pgoutput message or frame ("I", "w"), or "" outside of one."""
    reason: str
    """What is wrong, without place."""

class DecodeError(CoreError):
    """What PostgreSQL sent is malformed, or comes in an order that it must not."""

class EnvelopeError(CoreError):
    """An envelope is not one of ours or damaged, or an object is used out of its order."""

def lsn_parse(text: str) -> int:
    """Read an LSN as PostgreSQL prints it ("16/B374D848"). Raises `CoreError`."""

def lsn_format(lsn: int) -> str:
    """Print an LSN as PostgreSQL does ("16/B374D848")."""

# --- envelopes

@final
class Header:
    """What stands in front of a body. One shape for all kinds; what a kind does not use is 0."""

    @property
    def kind(self) -> int:
        """One of the `KIND_` constants."""
    @property
    def incarnation(self) -> bytes:
        """The group's UUID, 16 bytes."""
    @property
    def prev_commit_lsn(self) -> int:
        """Commit LSN of the position where the previous envelope of the chain ended."""
    @property
    def prev_ordinal(self) -> int:
        """Ordinal of the position where the previous envelope of the chain ended."""
    @property
    def prev_end_lsn(self) -> int:
        """For a body in parts: the `end_lsn` of an `Assembler` that starts again before it.

        Needed when the stream ends in the middle of the parts: continue at the previous position.
        """
    @property
    def commit_lsn(self) -> int:
        """Commit LSN of the position where this envelope ends."""
    @property
    def ordinal(self) -> int:
        """Ordinal of the position where this envelope ends."""
    @property
    def end_lsn(self) -> int:
        """End of the last commit record that is wholly at or before the end of this envelope."""
    @property
    def transaction_open(self) -> bool:
        """Whether this envelope ends inside a transaction."""
    @property
    def part(self) -> int:
        """Number of this piece of a body that is too large for one envelope, from 0."""
    @property
    def parts(self) -> int:
        """Pieces of that body; 1 for a whole one. All carry the same positions and `changes`."""
    @property
    def changes(self) -> int:
        """Ordinals in the body (of all parts together)."""
    @property
    def commit_time_us(self) -> int:
        """Time of the last commit in the body, µs since 2000-01-01 UTC; 0 if it has none."""
    @property
    def relation_oid(self) -> int:
        """Copy: the table at the source."""
    @property
    def snapshot_lsn(self) -> int:
        """Copy: consistent point of the snapshot the rows were read in."""
    @property
    def range_no(self) -> int:
        """Copy: number of the range in its table."""
    @property
    def attempt(self) -> int:
        """Copy: number of the attempt at the range."""
    @property
    def part_no(self) -> int:
        """Copy: number of this envelope in its attempt, from 0."""
    @property
    def final(self) -> bool:
        """Copy: whether this is the last envelope of its attempt."""
    @property
    def binary(self) -> bool:
        """Copy: whether the rows are those of COPY's binary format."""
    @property
    def rows(self) -> int:
        """Copy: rows counted in this envelope; the sum over an attempt is `total_rows`."""
    @property
    def total_rows(self) -> int:
        """Copy: rows of the whole attempt, on its final part only."""
    @property
    def layout(self) -> int:
        """Changes and watermarks: number of the layout of the group's tables, as published."""
    @property
    def body_bytes(self) -> int:
        """Length of the body behind this header."""

def read_header(envelope: Buffer, *, verify: bool = True) -> Header:
    """Read and check the header of one whole envelope.

    Checked are magic, version, kind, flags, lengths and the order of the positions. `verify`
    compares the CRC-32C of header and body as well: about 0.2 ms per MiB. Raises `EnvelopeError`.
    """

@final
class Envelope:
    """A finished envelope of the change stream, ready to be published."""

    @property
    def data(self) -> bytes:
        """Header and body."""
    @property
    def kind(self) -> int:
        """`KIND_CHANGES` or `KIND_WATERMARK`."""
    @property
    def commit_lsn(self) -> int:
        """Commit LSN of the position where it ends."""
    @property
    def ordinal(self) -> int:
        """Ordinal of the position where it ends."""
    @property
    def end_lsn(self) -> int:
        """What may be confirmed at the source once this envelope is safe."""
    @property
    def transaction_open(self) -> bool:
        """Whether it ends inside a transaction."""
    @property
    def changes(self) -> int:
        """Ordinals in its logical body."""
    @property
    def part(self) -> int:
        """Number of this piece of its logical body, from 0."""
    @property
    def parts(self) -> int:
        """Pieces of its logical body."""

@final
class Assembler:
    """Turns the frames of one START_REPLICATION into a chain of envelopes.

    Holds one unfinished envelope and the largest row, no more. After any error it refuses every
    further call: throw it away and start again from what the broker has stored.
    """

    def __new__(
        cls,
        incarnation: bytes,
        position: tuple[int, int],
        end_lsn: int,
        *,
        target_body_bytes: int = 262144,
        max_body_bytes: int = 917504,
        layout: int = 0,
    ) -> Assembler:
        """Continue the chain behind an envelope that ended at `position` with `end_lsn`.

        `layout` stands in the header of every envelope that it makes.

        Changes at or before `position` are skipped, also in the middle of a transaction. A position
        with an ordinal and `commit_lsn >= end_lsn` lies inside an open transaction, whose rest must
        come first. An envelope is finished at a commit that leaves `target_body_bytes` or more; no
        body exceeds `max_body_bytes`. Raises `EnvelopeError` for an incarnation that is not 16
        bytes, a target of 0 or one above the maximum, a maximum under 1024.
        """
    def feed(self, block: Buffer) -> list[Envelope]:
        """Take a block of frames, give the envelopes that got full.

        A block is `([u32 BE length][CopyData payload])*` with whole 'w' and 'k' frames.
        Raises `DecodeError` for malformed frames and for a stream that contradicts itself or the
        start position (a change outside a transaction, commits out of order, a transaction with
        another number of changes than before). Cost per
        million small changes: 0.04 s in large transactions, 0.15 s when each has its own.
        """
    def flush(self) -> list[Envelope]:
        """Finish what is pending now, if it ends at a commit; otherwise give an empty list."""
    def watermark(self, lsn: int) -> Envelope:
        """Make the envelope that says "nothing more up to `lsn`".

        Only with nothing pending and no transaction open; `lsn` must be above the last envelope's
        `end_lsn`, at or above `end_lsn`, and not above `received_lsn`. Raises `EnvelopeError`
        otherwise.
        """
    @property
    def received_lsn(self) -> int:
        """Highest WAL position seen in any frame; at first the start's `end_lsn`."""
    @property
    def keepalive_lsn(self) -> int:
        """End of WAL told by the last keepalive; 0 before the first."""
    @property
    def end_lsn(self) -> int:
        """End of the last complete commit, pending and empty ones included."""
    @property
    def commit_lsn(self) -> int:
        """Commit LSN of the position that assembling has reached, pending changes included."""
    @property
    def ordinal(self) -> int:
        """Ordinal of the position that assembling has reached, pending changes included."""
    @property
    def in_transaction(self) -> bool:
        """Whether a Begin waits for its Commit, or the chain was continued inside a transaction."""
    @property
    def pending_bytes(self) -> int:
        """Bytes of body that no finished envelope holds yet."""
    @property
    def pending_at_commit(self) -> bool:
        """Whether something is pending and it ends at a commit: `flush` would finish it."""
    def take_reply_request(self) -> int | None:
        """When the server sent the last keepalive since the last call that asked for an answer.

        Microseconds since 2000-01-01 by its own clock; None if there was no such keepalive.
        """
    @property
    def frames(self) -> int:
        """Frames read."""
    @property
    def changes(self) -> int:
        """Changes assembled; skipped ones do not count."""
    @property
    def commits(self) -> int:
        """Commits read, skipped and empty ones included."""

@final
class CopyPacker:
    """Packs the COPY rows of one attempt at a range: the bodies of its envelopes concatenate."""

    def __new__(
        cls,
        incarnation: bytes,
        relation_oid: int,
        snapshot_lsn: int,
        range_no: int,
        attempt: int,
        *,
        target_body_bytes: int,
        max_body_bytes: int,
        binary: bool = False,
    ) -> CopyPacker:
        """Start an attempt. Raises `EnvelopeError` as `Assembler` does.

        `binary`: the format of its rows, for the header; they are packed unread in either.
        """
    def feed(self, rows: Buffer, row_count: int) -> list[bytes]:
        """Take `row_count` whole rows, give the envelopes that reached `target_body_bytes` of body.

        A row may lie across envelopes; the rows of a call are counted in the envelope that holds
        its last byte.
        """
    def finish(self) -> bytes:
        """Give the final part (also for an empty range); the packer takes nothing more after it."""
    @property
    def rows(self) -> int:
        """Rows fed."""
    @property
    def bytes(self) -> int:
        """Bytes of rows fed."""

@final
class BinaryToText:
    """Turns rows of COPY's binary format into rows of its text format.

    Text is what COPY writes under the settings that pgflo pins; a float's may differ in its digits,
    and reads back as the same number.
    """

    def __new__(cls, type_oids: list[int]) -> BinaryToText:
        """Begin a range of columns of these types; `EnvelopeError` if one has no known form."""
    def feed(self, part: Buffer) -> bytes:
        """Take the next part, cut wherever it is; give the rows that are whole now.

        Raises `DecodeError` where the bytes are no binary COPY of such columns. Memory: the part
        twice, and one row.
        """
    def finish(self) -> None:
        """Raise `DecodeError` unless the range ended as a binary COPY does."""

def has_binary_form(type_oids: list[int]) -> bool:
    """Whether `BinaryToText` knows all these types."""

# --- JSON lines

@final
class Events:
    """The changes of one body, or the copied rows that end in one piece, as JSON lines."""

    @property
    def data(self) -> bytes:
        """All lines, each with its line feed. A copy for each call."""
    @property
    def count(self) -> int:
        """Number of lines."""
    def requests(self, batch: int, lanes: int) -> list[tuple[int | None, str, bytes, int]]:
        """Cut marked lines into requests: lane, id, body, number of lines.

        With a `batch` of 1 the body is the line, without its line feed; with more it is a JSON
        array of so many lines at most. Changes of one key share a lane. A request whose lane is
        None waits for all before it, and all after it wait for that. The id is that of the line; of
        an array, that of its first line and a digest of it.
        """

@final
class JsonScribe:
    """Prints a group's changes as JSON lines with the values of `to_jsonb`.

    Types of which nobody tells what they are made of (enum, extension) are printed as their text.
    """

    def __new__(
        cls,
        group: str,
        incarnation: bytes,
        keys: Mapping[int, Sequence[str]],
        types: Mapping[int, tuple[str, int, str, Sequence[tuple[str, int]]]],
        *,
        marked: bool = False,
    ) -> JsonScribe:
        """Print for a group. `keys`: primary keys of tables with REPLICA IDENTITY FULL, by OID.

        `types`, by OID: `domain` and its base type; `array`, the elements' type and what stands
        between them; or `composite`, and at the end its attributes.

        `marked`: lines can be cut into requests. Raises `EnvelopeError` for an incarnation that is
        not 16 bytes, `ValueError` for a type of another kind.
        """
    def changes(self, body: Buffer, prev: tuple[int, int], after: tuple[int, int]) -> Events:
        """Print the changes of a whole body that lie behind `after`. The chain stood at `prev`.

        Raises `DecodeError` for a malformed body, and for a value that is not UTF-8.
        """
    def rows(
        self,
        oid: int,
        schema: str,
        name: str,
        columns: Sequence[tuple[str, int]],
        key: Sequence[str],
        *,
        snapshot_lsn: int,
        range_no: int,
        source: tuple[str, str] | None = None,
        route: int = 0,
    ) -> JsonRows:
        """Begin a range of a table that is copied. `columns`: names and type OIDs.

        `source`: its schema and name at the source, where rules give it others; `route`: which of
        its destinations this is. Ids tell both.
        """

@final
class JsonRows:
    """Prints the COPY text rows of one range."""

    def feed(self, piece: Buffer) -> Events:
        """Print the rows that end in this piece; a row may lie across pieces.

        Raises `DecodeError` for a row of another number of cells, and for a value that is not
        UTF-8.
        """
    def finish(self) -> int:
        """Give the number of rows. Raises `DecodeError` if the last one has no end."""

_Cell: TypeAlias = tuple[Literal["n", "u", "t", "b"], bytes | None]
"""A column of a tuple: null, unchanged TOAST (both with None), text or binary."""

_BeginMessage: TypeAlias = tuple[Literal["B"], int, int, int]
"""final_lsn, commit_time_us, xid"""
_CommitMessage: TypeAlias = tuple[Literal["C"], int, int, int]
"""commit_lsn, end_lsn, commit_time_us"""
_OriginMessage: TypeAlias = tuple[Literal["O"], int, str]
"""origin_lsn, name"""
_RelationMessage: TypeAlias = tuple[
    Literal["R"], int, str, str, str, list[tuple[bool, str, int, int]]
]
"""oid, schema ("" = pg_catalog), name, replica identity, columns (key, name, type_oid, typmod)"""
_TypeMessage: TypeAlias = tuple[Literal["Y"], int, str, str]
"""oid, schema, name"""
_InsertMessage: TypeAlias = tuple[Literal["I"], int, list[_Cell]]
"""relation_oid, new"""
_UpdateMessage: TypeAlias = tuple[
    Literal["U"], int, Literal["", "K", "O"], list[_Cell] | None, list[_Cell]
]
"""relation_oid, what `old` is, old, new"""
_DeleteMessage: TypeAlias = tuple[Literal["D"], int, Literal["K", "O"], list[_Cell]]
"""relation_oid, what `old` is, old"""
_TruncateMessage: TypeAlias = tuple[Literal["T"], bool, bool, list[int]]
"""cascade, restart identity, relation_oids"""
_LogicalMessage: TypeAlias = tuple[Literal["M"], bool, int, str, bytes]
"""transactional, lsn, prefix, content"""
_PgoutputMessage: TypeAlias = (
    _BeginMessage
    | _CommitMessage
    | _OriginMessage
    | _RelationMessage
    | _TypeMessage
    | _InsertMessage
    | _UpdateMessage
    | _DeleteMessage
    | _TruncateMessage
    | _LogicalMessage
)

def decode_messages(body: Buffer) -> list[_PgoutputMessage]:
    """Decode every message of a whole logical body, for eyes and tests: a Python tuple per message.

    Slow on purpose (µs per message), never for the hot path. Raises `DecodeError`.
    """

# --- libpq

PUMP_MORE: Final = 0
"""Stopped at `max_bytes`, or in the middle of a large message: call again at once."""
PUMP_IDLE: Final = 1
"""Nothing more until the socket is readable; nothing hides in TLS or libpq."""
PUMP_END: Final = 2
"""COPY has ended: collect the result with psycopg."""
PUMP_FAILED: Final = 3
"""The connection failed: psycopg has its error message."""

@final
class Pump:
    """Drains the COPY data of a libpq connection that psycopg opened.

    One call at a time: a second one raises `CoreError` at once, and psycopg must leave the
    connection alone meanwhile (`PQgetCancel` excepted). `pgflo.source.pump.open_pump` makes one.
    """

    def __new__(
        cls, pgconn_ptr: int, socket: int, libpq_path: str, libpq_version: int, owner: object
    ) -> Pump:
        """Bind to the libpq that psycopg loaded.

        `owner` is the `PGconn` that the address comes from: it is kept alive, and asked for its
        `pgconn_ptr` before each call, so that a closed connection is never touched. Raises
        `CoreError` when the library is not loaded, or when `PQlibVersion` or `PQsocket` disagree
        with what psycopg says.
        """
    def drain(self, max_bytes: int, timeout_ms: int) -> tuple[bytes, int]:
        """Read frames, each behind its u32 BE length, and a `PUMP_` state.

        Waits up to `timeout_ms` for the first frame (0: not at all) and returns as soon as no
        further one is there. `max_bytes` is soft: one frame may exceed it. Frames that came before
        an end or a failure are given with it. Cost: about 0.1 s per million frames.
        """
    def drain_rows(self, max_bytes: int, timeout_ms: int) -> tuple[bytes, int, int]:
        """Read COPY rows as they are, concatenated; their number; and a `PUMP_` state.

        Goes on waiting for more rows until `max_bytes` or `timeout_ms`. The trailer of a binary
        COPY is among the bytes and not counted as a row; its header comes with the first row.
        """

# --- replay

STEP_DONE: Final = 0
"""The body is applied."""
STEP_RELATION: Final = 1
"""A relation is new or changed: look at `Step.relation`, then `run` again."""
STEP_STATEMENT: Final = 2
"""A shape has no statement yet: `register` one for `Step.shape`, then `run` again."""
STEP_TRUNCATE: Final = 3
"""A TRUNCATE stands here: apply it, then `run` again."""
STEP_MESSAGE: Final = 4
"""A transactional logical message stands here."""
STEP_FAILED: Final = 5
"""A change could not be applied: see `sqlstate` and `matched_rows`, roll back, `load` again."""

@final
class Column:
    """A column of a relation as the source describes it."""

    @property
    def name(self) -> str: ...
    @property
    def type_oid(self) -> int: ...
    @property
    def typmod(self) -> int: ...
    @property
    def key(self) -> bool:
        """Whether it belongs to the replica identity."""

@final
class Relation:
    """A relation as the source describes it. `version` grows whenever the definition changes."""

    @property
    def oid(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def schema(self) -> str:
        """Never empty: "pg_catalog" is spelled out."""
    @property
    def name(self) -> str: ...
    @property
    def replica_identity(self) -> str:
        """One of d (default), n (nothing), f (full) and i (index)."""
    @property
    def columns(self) -> list[Column]: ...

@final
class Shape:
    """What a statement must do: relation, operation, old tuple, new columns that are missing."""

    @property
    def id(self) -> int: ...
    @property
    def relation_oid(self) -> int: ...
    @property
    def op(self) -> str:
        """One of I, U and D."""
    @property
    def old(self) -> str:
        """Empty (none), K (key) or O (whole row)."""
    @property
    def unchanged(self) -> tuple[int, ...]:
        """Numbers of the columns that the new tuple leaves out, from 0."""
    @property
    def careful(self) -> bool: ...
    @property
    def presence(self) -> str:
        """What is known of the row at the destination, where rules keep rows out.

        Empty: it is as the operation says. "maybe": it may be there or not; afterwards it is (I, U)
        or is not (D). "stays": it is updated if it is there. "undecided": if it is not there,
        nobody can tell whether it should be.
        """

@final
class Statement:
    """What a shape runs: a prepared statement and where its parameters come from."""

    def __new__(
        cls,
        name: str | None,
        params: list[tuple[str, int]],
        fallback: tuple[str, list[tuple[str, int]]] | None = None,
        conflict: str = "",
    ) -> Statement:
        """`name` None: nothing to do. `params`: ("new" | "old" | "new_or_old", column number).

        Exactly one row is expected. Careful mode, no row: `fallback` runs and must hit one,
        `conflict` is counted; without a fallback it is counted and passed if `conflict` is
        "delete_missing".
        """

@final
class Step:
    """Why `Replay.run` returned."""

    @property
    def kind(self) -> int: ...
    @property
    def relation(self) -> Relation | None: ...
    @property
    def shape(self) -> Shape | None: ...
    @property
    def truncated(self) -> list[Relation]: ...
    @property
    def cascade(self) -> bool: ...
    @property
    def restart_identity(self) -> bool: ...
    @property
    def prefix(self) -> str: ...
    @property
    def content(self) -> bytes: ...
    @property
    def commit_lsn(self) -> int: ...
    @property
    def ordinal(self) -> int: ...
    @property
    def sqlstate(self) -> str:
        """The server's error, or empty; 08006 for a lost connection."""
    @property
    def constraint(self) -> str: ...
    @property
    def column(self) -> str:
        """The column that may not be NULL, or empty."""
    @property
    def matched_rows(self) -> int:
        """Rows that the failed change touched instead of one; -1 where that is not the trouble."""
    @property
    def changes(self) -> int:
        """Changes applied since `load`."""
    @property
    def conflicts(self) -> list[tuple[int, str, int, tuple[int, int]]]:
        """Tell what careful mode met since `load`, by relation and kind.

        Each: the relation's OID; "insert_exists", "update_missing" or "delete_missing"; how many
        changes; the position of the first.
        """

@final
class Replay:
    """Applies changes in source order through prepared statements, pipelined on one connection.

    Relations and statements are remembered from body to body; a new connection needs a new
    `Replay`. psycopg must have begun the transaction, and ends it.
    """

    def __new__(cls, pump: Pump) -> Replay:
        """Apply through the connection of `pump`."""
    def load(
        self,
        body: Buffer,
        prev: tuple[int, int],
        after: tuple[int, int],
        only: list[int] | None = None,
    ) -> None:
        """Take one whole logical body (parts joined) whose chain stood at `prev` before it.

        Changes at or before `after` are skipped and not counted, and so are those of relations
        whose OID is not in `only`, if that is given. Replaces what was loaded before.
        """
    def run(self, *, careful: bool) -> Step:
        """Apply until the body is done or Python is needed. Returns outside of pipeline mode.

        Every statement before the returned step has been answered. A relation is announced before
        its first change that is not skipped, in each version; one that comes again unchanged is
        not. Waits without limit for locks: psycopg's cancel may be called from another thread.
        Raises `DecodeError` for a malformed body and `EnvelopeError` with none loaded; after that,
        and after `STEP_FAILED`, roll back and `load` again. Cost: about 1 µs of our CPU per change,
        a round trip per change if `careful`.
        """
    def register(self, shape_id: int, statement: Statement) -> None:
        """Answer a `STEP_STATEMENT`.

        Raises `EnvelopeError` for a shape that is not known (any more) and for a statement that
        asks for a column or a value that changes of this shape do not have.
        """
    def forget(self, relation_oid: int) -> None:
        """Drop the statements of a relation; they are asked for again, under new shape numbers.

        A relation that changed has lost its statements already.
        """
    def forget_all(self) -> None:
        """Drop the statements of all relations, after DISCARD or DEALLOCATE ALL."""

@final
class Route:
    """What becomes of a relation's changes in a `NetEffect`."""

    def __new__(
        cls,
        target: int,
        key: list[int] | None,
        written: list[int],
        delimiters: Sequence[int],
        *,
        updates: bool,
        slow: bool,
    ) -> Route:
        """Name columns by number, from 0.

        `target`: OID of the destination table; relations that share one share its keys. `key`: the
        columns of a row's key, in the destination key's order; None: rows can only be inserted.
        `written`: the columns that are written, ascending. `delimiters`: for each column the byte
        between two elements of an array of its type. `updates`: whether UPDATE may set the written
        columns. `slow`: replay takes the table's changes in any case.
        """

@final
class Group:
    """Work for one statement at the destination."""

    @property
    def kind(self) -> str:
        """D delete, U update, P put (a row that is there is updated), I insert."""
    @property
    def relation_oid(self) -> int:
        """The relation whose column numbers `columns` are."""
    @property
    def columns(self) -> list[int]:
        """Columns that are written; none for a delete."""
    @property
    def rows(self) -> int: ...
    @property
    def expected(self) -> int | None:
        """Rows that the statement touches if the destination was as the source was.

        None: any number, since rules may have kept rows out.
        """
    @property
    def data(self) -> list[bytes]:
        """Give the rows, encoded.

        D: an array literal for each key column. U: those of the keys that the rows have so far,
        then one for each of `columns`. P: an array for each of `columns`, which are all that are
        written. I: rows in COPY's text format.
        """

@final
class NetEffect:
    """Collects what the changes of an epoch leave of each row.

    Relations and their routes are remembered from epoch to epoch.
    """

    def __new__(cls) -> NetEffect:
        """Begin with nothing."""
    def load(self, bodies: list[tuple[Buffer, tuple[int, int]]], after: tuple[int, int]) -> None:
        """Take whole logical bodies, each with the position before it.

        Changes at or before `after` are skipped and not counted, and so are those that an earlier
        one of the bodies holds. Replaces what was loaded before.
        """
    def run(self) -> tuple[str, Relation | None]:
        """Collect until the bodies are done or Python is needed; say which.

        "done"; "relation": `answer` it and run again; "truncate", "changed relation",
        "contradiction": replay must take the whole epoch, nothing is collected. Raises
        `DecodeError` for a malformed body. Cost: about 0.3 µs per change, and 100 bytes for each
        row that is met.
        """
    def answer(self, relation_oid: int, route: Route) -> None:
        """Answer a relation. Raises `EnvelopeError` for columns that it does not have."""
    def counts(self) -> tuple[int, int]:
        """Count changes met since `load`, and those of them that replay has to take."""
    def slow_relations(self) -> list[int]:
        """OIDs of the relations whose changes replay has to take: pass them as its `only`."""
    def take(self) -> list[Group]:
        """Give what was collected as statements' worth each, in the order in which to run them.

        Deletes, updates, puts, inserts. Run so, they leave the rows that replay would leave, or one
        of them fails or does not touch `expected` rows: then roll back and replay. Lets go of
        bodies and rows. Raises `EnvelopeError` for a value that came in binary.
        """
    def clear(self) -> None:
        """Let go of bodies and rows."""
    def forget_all(self) -> None:
        """Drop relations, bodies and rows; relations are asked for again."""

class RulesError(CoreError):
    """Rules do not fit the rows that come."""

    table: str
    """schema.table at the source."""
    mistakes: list[tuple[str, str]]
    """Where the rule or route was written, and what is wrong."""
    position: tuple[int, int] | None
    """The change that comes next; None where none does."""

class _Condition(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def operator(self) -> str: ...
    @property
    def value(self) -> str | None: ...

class _Rule(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def table(self) -> tuple[str, str] | None: ...
    @property
    def column(self) -> str: ...
    @property
    def operations(self) -> Sequence[str]: ...
    @property
    def kind(self) -> str: ...
    @property
    def operator(self) -> str: ...
    @property
    def value(self) -> str | None: ...
    @property
    def allow_empty_deletes(self) -> bool | None: ...
    @property
    def mask_char(self) -> str: ...
    @property
    def pattern(self) -> str: ...
    @property
    def replace(self) -> str: ...
    @property
    def allow_key(self) -> bool: ...

class _Route(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def source(self) -> tuple[str, str]: ...
    @property
    def destination(self) -> tuple[str, str] | None: ...
    @property
    def columns(self) -> Sequence[tuple[str, str]]: ...
    @property
    def operations(self) -> Sequence[str]: ...
    @property
    def when(self) -> Sequence[_Condition]: ...

class _GroupTable(Protocol):
    @property
    def oid(self) -> int: ...
    @property
    def schema(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def root(self) -> tuple[str, str] | None: ...

@final
class RuleSet:
    """Rules and routes of one sink, to be compiled for one relation after the other."""

    def __new__(
        cls,
        rules: Sequence[_Rule],
        routes: Sequence[_Route],
        tables: Sequence[_GroupTable],
        types: Mapping[int, tuple[int, bool, bool]],
    ) -> RuleSet:
        """Take what was written down (see `pgflo.rules.spec`), and what is known of the group.

        `types`: for OIDs that are not built in the type beneath a domain (else itself), whether
        that is an enum, and whether its values are character strings.
        """
    @property
    def labels(self) -> list[str]:
        """Where each rule and then each route was written: what counts are numbered by."""
    def compile(
        self,
        oid: int,
        table: tuple[str, str],
        replica_identity: str,
        columns: Sequence[tuple[str, int, int, bool]],
    ) -> Program:
        """Compile what becomes of a relation. Columns: name, type, typmod, part of the identity.

        Raises `RulesError` with all that does not fit it.
        """

@final
class Program:
    """Rules and routes, compiled for one relation in one version."""

    @property
    def routes(self) -> list[Routed]:
        """Where rows go."""
    @property
    def is_empty(self) -> bool:
        """Whether rows and table stay as they are."""
    def trial(
        self,
        op: str,
        old: tuple[bool, list[str | None]] | None,
        new: list[str | None],
        rules: int,
    ) -> tuple[list[tuple[str, str, int | None, list[str | None]]], list[tuple[int, int, int]]]:
        """Try one change: I, U or D; `old` with whether it is the whole row or the key alone.

        Gives for each route the operation that it becomes (empty: it is dropped), what is known of
        the row then, the number of the label that drops it, and its values by column; then what
        rules did. Raises `RulesError` for a value that is none of its type.
        """
    @property
    def copies_as_is(self) -> bool:
        """Whether copied rows pass unparsed, if to another table."""

@final
class Routed:
    """A destination of a relation."""

    @property
    def oid(self) -> int:
        """By which changes behind the program name it; the source's own for one of them."""
    @property
    def schema(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def is_renamed(self) -> bool:
        """Whether it is another table than rows go to without a route."""
    @property
    def columns(self) -> list[tuple[int, str]]:
        """Columns that it gets: number at the source, name here."""
    @property
    def transformed(self) -> list[int]:
        """Numbers of the columns that are transformed."""
    @property
    def takes_inserts(self) -> bool:
        """Whether inserts, and with them copied rows, go there."""
    @property
    def is_certain(self) -> bool:
        """Whether it has exactly the rows that filters pass."""

@final
class Rewriter:
    """Takes bodies through rules. Relations are remembered from body to body."""

    def __new__(cls, rules: RuleSet) -> Rewriter:
        """Rewrite by these rules."""
    def rewrite(
        self, body: Buffer, prev: tuple[int, int], after: tuple[int, int]
    ) -> tuple[bytes | None, int, list[tuple[int, int, int]]]:
        """Give what becomes of a whole body (None: it stays), its changes, and what rules did.

        Changes at or before `after` become a gap. What rules did: (number of the label, rows
        dropped, rows changed). The new body is for `Replay` and `NetEffect` only. Cost: about
        0.5 µs per change. Raises `RulesError` at the first change of a table that rules do not fit
        any more, `DecodeError` for a malformed body.
        """

@final
class CopyRewriter:
    """Takes the rows of one range through a program."""

    def __new__(cls, program: Program, rules: int) -> CopyRewriter:
        """Begin a range; `rules` is the number of labels."""
    def feed(self, part: Buffer) -> list[tuple[bytes, int]]:
        """Take the next part, which may end inside a row; give rows and their number by route.

        Raises `RulesError` for a value that is none of its type.
        """
    def finish(self) -> tuple[int, list[tuple[int, int, int]]]:
        """End the range: rows taken, and what rules did. Raises `EnvelopeError` inside a row."""

@final
class Splitter:
    """Splits the bodies of an epoch into one body per shard, by the key of what they change.

    Tables and their routes are remembered from epoch to epoch. A slice is a body like any other for
    `Replay`, whose chain stood where the epoch begins: the changes in it keep their positions.
    """

    def __new__(cls, shards: int, rows: list[tuple[int, int]] | None = None) -> Splitter:
        """Split for 1 to 1024 shards.

        With `rows`, the positions of that many shards, gather instead: one slice with all that
        stands behind the row of its shard, in source order.
        """
    def load(self, body: Buffer, prev: tuple[int, int], after: tuple[int, int]) -> None:
        """Take the next whole body (parts joined) of the epoch, whose chain stood at `prev`.

        Changes at or before `after` are left out.
        """
    def run(self) -> Relation | None:
        """Split the body. None: it is done. A relation: give its `route`, then run again.

        Behind the first change that makes a barrier nothing is looked at until `take`. Cost: about
        0.3 µs per change. Raises `DecodeError` for a malformed body, `EnvelopeError` with none.
        """
    def route(
        self, relation_oid: int, *, key: list[int] | None = None, shard: int | None = None
    ) -> None:
        """Say where a table's changes go until its definition changes.

        `key`: by hash of these columns (numbers from 0), hashed in this order. `shard`: all there.
        Neither: each of them is a barrier. Raises `EnvelopeError` for what is not there.
        """
    def forget(self) -> None:
        """Drop all routes; they are asked for again."""
    def take(self) -> tuple[list[bytes | None], bool]:
        """Give the slice of each shard (None: no change) and whether the epoch is a barrier.

        A barrier (a TRUNCATE, a key that moves between shards, a key that cannot be told, a table
        routed as one) must be applied as it came. Begins the next epoch.
        """

def sift(body: Buffer, prev: tuple[int, int], snapshots: dict[int, int]) -> bytes | None:
    """Leave out of a whole body what the copies of tables hold already. None: there is nothing.

    `snapshots`: by relation OID the consistent point of its copy; what committed before that goes.
    What stays keeps its position; a TRUNCATE of several tables loses those. The chain stood at
    `prev`. Cost: about 50 ns per change. Raises `DecodeError` for a malformed body.
    """
