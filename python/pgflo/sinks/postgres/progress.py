"""What a destination says about how far it is: the tables of schema `pgflo`, and the fence.

Upstream: worker (takes the row at start), writers (take it at every connect, move it with every
transaction), copy writers (one row per range). Downstream: the destination's own commit.

The rules that make the effect exactly-once:
- A row is only ever read by taking it: UPDATE … SET fence = fence + 1 … RETURNING. That waits for a
  commit whose answer got lost, and from then on the former holder's transactions move nothing.
- A run takes the row unconditionally once, under its lease, and writes its name (`owner`) into it;
  its writers take it only while that name stands there.
- A transaction with rows moves the row by UPDATE … WHERE fence = mine AND position = where I
  started. No row: somebody else took over, and the transaction must be rolled back.
- A range's rows are committed together with its row in `copied_ranges`, whose key forbids a
  second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgflo import _core, errors
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    import uuid

    import psycopg
    from psycopg.rows import TupleRow

    from pgflo.sinks.postgres.connection import Destination

SCHEMA_STATEMENTS = (
    "CREATE SCHEMA IF NOT EXISTS pgflo",
    # Half-empty pages keep the updates of these few rows on their page.
    """CREATE TABLE IF NOT EXISTS pgflo.progress (
        group_name text, sink text, shard int,
        incarnation uuid NOT NULL, commit_lsn pg_lsn NOT NULL, ordinal bigint NOT NULL,
        end_lsn pg_lsn NOT NULL, fence bigint NOT NULL, owner uuid NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (group_name, sink, shard)
    ) WITH (fillfactor = 50)""",
    """CREATE TABLE IF NOT EXISTS pgflo.copied_ranges (
        group_name text, sink text, incarnation uuid, relation_oid bigint, snapshot_lsn pg_lsn,
        range_no int, attempt int NOT NULL, row_count bigint NOT NULL,
        PRIMARY KEY (group_name, sink, incarnation, relation_oid, snapshot_lsn, range_no)
    )""",
    """CREATE TABLE IF NOT EXISTS pgflo.copied_tables (
        group_name text, sink text, destination text, incarnation uuid NOT NULL,
        PRIMARY KEY (group_name, sink, destination)
    )""",
)

SCHEMA_LOCK = 0x7067666C6F
""""pgflo": two workers that start at the same time create the schema one after the other."""

SHARD = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """A taken progress row. `position` is what the destination has committed."""

    incarnation: uuid.UUID
    commit_lsn: int
    ordinal: int
    end_lsn: int
    fence: int

    @property
    def position(self) -> tuple[int, int]:
        """(commit_lsn, ordinal)."""
        return self.commit_lsn, self.ordinal


def create_schema(conn: psycopg.Connection[TupleRow]) -> None:
    """Create schema `pgflo` and its tables where they are missing; needs CREATE only then."""
    found = conn.execute("SELECT to_regclass('pgflo.copied_tables') IS NOT NULL").fetchone()
    if found == (True,):
        return
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        for statement in SCHEMA_STATEMENTS:
            conn.execute(statement)


def take_over(conn: psycopg.Connection[TupleRow], to: Destination) -> Progress | None:
    """Take the row for a new run, whoever held it before; None if the sink never wrote here."""
    return _taken(
        conn.execute(
            "UPDATE pgflo.progress SET fence = fence + 1, owner = %s"
            " WHERE group_name = %s AND sink = %s AND shard = %s"
            " RETURNING incarnation, commit_lsn::text, ordinal, end_lsn::text, fence",
            (to.owner, to.group, to.sink, SHARD),
        )
    )


def take(conn: psycopg.Connection[TupleRow], to: Destination) -> Progress:
    """Take the row again after a connect. Raises `PgfloError` GROUP_SUPERSEDED."""
    taken = _taken(
        conn.execute(
            "UPDATE pgflo.progress SET fence = fence + 1"
            " WHERE group_name = %s AND sink = %s AND shard = %s AND owner = %s"
            " RETURNING incarnation, commit_lsn::text, ordinal, end_lsn::text, fence",
            (to.group, to.sink, SHARD, to.owner),
        )
    )
    if taken is None:
        raise superseded(to)
    return taken


def begin_incarnation(
    conn: psycopg.Connection[TupleRow], to: Destination, incarnation: uuid.UUID, start_lsn: int
) -> None:
    """Put the row to the start of an incarnation, and forget the ranges of former ones.

    Its end_lsn is 0/0, since the destination is no state of the source yet: `start_streaming`.
    Runs inside the transaction that prepares the tables. Raises `PgfloError` GROUP_SUPERSEDED if
    another run has taken the row meanwhile.
    """
    start = _core.lsn_format(start_lsn)
    moved = conn.execute(
        "INSERT INTO pgflo.progress AS p"
        " (group_name, sink, shard, incarnation, commit_lsn, ordinal, end_lsn, fence, owner)"
        " VALUES (%(group)s, %(sink)s, %(shard)s, %(incarnation)s, %(start)s, 0, '0/0', 1,"
        " %(owner)s)"
        " ON CONFLICT (group_name, sink, shard) DO UPDATE SET incarnation = excluded.incarnation,"
        " commit_lsn = excluded.commit_lsn, ordinal = 0, end_lsn = excluded.end_lsn,"
        " fence = p.fence + 1, updated_at = clock_timestamp()"
        " WHERE p.owner = excluded.owner",
        {
            "group": to.group,
            "sink": to.sink,
            "shard": SHARD,
            "incarnation": incarnation,
            "start": start,
            "owner": to.owner,
        },
    )
    if moved.rowcount != 1:
        raise superseded(to)
    conn.execute(
        "DELETE FROM pgflo.copied_ranges WHERE group_name = %s AND sink = %s AND incarnation <> %s",
        (to.group, to.sink, incarnation),
    )


def start_streaming(conn: psycopg.Connection[TupleRow], to: Destination, start_lsn: int) -> None:
    """Say that every row of the copy is there: from now on end_lsn names a state of the source."""
    moved = conn.execute(
        "UPDATE pgflo.progress SET end_lsn = GREATEST(end_lsn, %s),"
        " updated_at = clock_timestamp()"
        " WHERE group_name = %s AND sink = %s AND shard = %s AND owner = %s",
        (_core.lsn_format(start_lsn), to.group, to.sink, SHARD, to.owner),
    )
    if moved.rowcount != 1:
        raise superseded(to)


def move(
    conn: psycopg.Connection[TupleRow],
    to: Destination,
    held: Progress,
    position: tuple[int, int],
    end_lsn: int,
) -> Progress:
    """Move the row inside the transaction that holds the rows. Raises GROUP_SUPERSEDED."""
    moved = conn.execute(
        "UPDATE pgflo.progress SET commit_lsn = %s, ordinal = %s, end_lsn = %s,"
        " updated_at = clock_timestamp()"
        " WHERE group_name = %s AND sink = %s AND shard = %s AND incarnation = %s"
        " AND fence = %s AND commit_lsn = %s AND ordinal = %s",
        (
            _core.lsn_format(position[0]),
            position[1],
            _core.lsn_format(end_lsn),
            to.group,
            to.sink,
            SHARD,
            held.incarnation,
            held.fence,
            _core.lsn_format(held.commit_lsn),
            held.ordinal,
        ),
    )
    if moved.rowcount != 1:
        raise superseded(to)
    return Progress(held.incarnation, *position, end_lsn, held.fence)


def superseded(to: Destination) -> PgfloError:
    """Say that another worker has taken the sink's progress row."""
    return PgfloError(
        errors.GROUP_SUPERSEDED,
        f"another worker of sink {to.sink} has taken over group {to.group}",
        group=to.group,
        sink=to.sink,
    )


def _taken(cursor: psycopg.Cursor[TupleRow]) -> Progress | None:
    row = cursor.fetchone()
    if row is None:
        return None
    incarnation, commit_lsn, ordinal, end_lsn, fence = row
    return Progress(
        incarnation, _core.lsn_parse(commit_lsn), ordinal, _core.lsn_parse(end_lsn), fence
    )
