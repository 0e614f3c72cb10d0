"""What a destination says about how far it is: the tables of schema `pgflo`, and the fence.

Upstream: worker (takes the rows at start), writers (take theirs at every connect, move it with
every transaction), copy writers (one row per range). Downstream: the destination's own commit.

There is one row per shard, shard 0 always. The destination is where the smallest of them is.

The rules that make the effect exactly-once:
- A row is only ever read by taking it: UPDATE … SET fence = fence + 1 … RETURNING. That waits for a
  commit whose answer got lost, and from then on the former holder's transactions move nothing.
- A run takes all rows unconditionally once, under its lease, and writes its name (`owner`) into
  them; its writers take theirs only while that name stands there.
- A transaction with rows moves the row by UPDATE … WHERE fence = mine AND position = where I
  started. No row: somebody else took over, and the transaction must be rolled back.
- A range's rows are committed together with its row in `copied_ranges`, whose key forbids a
  second, and only while `copies` says that the table is to hold the rows of that snapshot.
- Who locks several rows does so in the order of their shards, so that nobody waits in a circle.
- A row that is made has a fence above all that were there, so that no former holder fits it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from pgflo import _core
from pgflo.sinks import contract
from pgflo.sinks.contract import Progress

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    import psycopg
    from psycopg.rows import TupleRow

    from pgflo.errors import PgfloError
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
    """CREATE TABLE IF NOT EXISTS pgflo.copies (
        group_name text, sink text, relation_oid bigint, incarnation uuid NOT NULL,
        snapshot_lsn pg_lsn NOT NULL, PRIMARY KEY (group_name, sink, relation_oid)
    )""",
    """CREATE TABLE IF NOT EXISTS pgflo.assignment (
        group_name text, sink text, shards int NOT NULL, hash_version int NOT NULL,
        tables jsonb NOT NULL, digest text NOT NULL, PRIMARY KEY (group_name, sink)
    )""",
    # Parts of the schema that are yet to be made: `pgflo.schema.ledger`.
    """CREATE TABLE IF NOT EXISTS pgflo.schema_parts (
        group_name text, sink text, number int, incarnation uuid NOT NULL, stage int NOT NULL,
        place int NOT NULL, label text NOT NULL, statements text NOT NULL, needs int[] NOT NULL,
        tables bigint[] NOT NULL, exclusive bool NOT NULL, done_at timestamptz,
        PRIMARY KEY (group_name, sink, number)
    )""",
)

SCHEMA_LOCK = 0x7067666C6F
""""pgflo": two workers that start at the same time create the schema one after the other."""

FIRST = 0
"""The shard that every sink has."""

RETURNING = sql.SQL("RETURNING shard, incarnation, commit_lsn::text, ordinal, end_lsn::text, fence")

WHERE_HELD = sql.SQL(
    "WHERE group_name = %s AND sink = %s AND shard = %s AND incarnation = %s"
    " AND fence = %s AND commit_lsn = %s AND ordinal = %s"
)


def create_schema(conn: psycopg.Connection[TupleRow]) -> None:
    """Create schema `pgflo` and its tables where they are missing; needs CREATE only then."""
    found = conn.execute(
        "SELECT to_regclass('pgflo.copies') IS NOT NULL"
        " AND to_regclass('pgflo.schema_parts') IS NOT NULL"
    ).fetchone()
    if found == (True,):
        return
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
        for statement in SCHEMA_STATEMENTS:
            conn.execute(statement)


def take_over(conn: psycopg.Connection[TupleRow], to: Destination) -> list[Progress]:
    """Take all rows for a new run, whoever held them before; none if the sink never wrote here."""
    with conn.transaction():
        _lock(conn, to)
        return _taken(
            conn.execute(
                sql.SQL(
                    "UPDATE pgflo.progress SET fence = fence + 1, owner = %s"
                    " WHERE group_name = %s AND sink = %s {}"
                ).format(RETURNING),
                (to.owner, to.group, to.sink),
            )
        )


def take_all(conn: psycopg.Connection[TupleRow], to: Destination) -> list[Progress]:
    """Take all rows again, in this run. Raises `PgfloError` GROUP_SUPERSEDED."""
    with conn.transaction():
        _lock(conn, to)
        taken = _taken(
            conn.execute(
                sql.SQL(
                    "UPDATE pgflo.progress SET fence = fence + 1"
                    " WHERE group_name = %s AND sink = %s AND owner = %s {}"
                ).format(RETURNING),
                (to.group, to.sink, to.owner),
            )
        )
    if not taken:
        raise superseded(to)
    return taken


def take(conn: psycopg.Connection[TupleRow], to: Destination, shard: int = FIRST) -> Progress:
    """Take a shard's row again after a connect. Raises `PgfloError` GROUP_SUPERSEDED."""
    taken = _taken(
        conn.execute(
            sql.SQL(
                "UPDATE pgflo.progress SET fence = fence + 1"
                " WHERE group_name = %s AND sink = %s AND shard = %s AND owner = %s {}"
            ).format(RETURNING),
            (to.group, to.sink, shard, to.owner),
        )
    )
    if not taken:
        raise superseded(to)
    return taken[0]


def begin_incarnation(
    conn: psycopg.Connection[TupleRow], to: Destination, incarnation: uuid.UUID, start_lsn: int
) -> None:
    """Put the sink to the start of an incarnation, with one shard, and forget former ones' ranges.

    Its end_lsn is 0/0, since the destination is no state of the source yet: `start_streaming`.
    Runs inside the transaction that prepares the tables. Raises `PgfloError` GROUP_SUPERSEDED if
    another run has taken the row meanwhile.
    """
    _lock(conn, to)
    moved = conn.execute(
        "INSERT INTO pgflo.progress AS p"
        " (group_name, sink, shard, incarnation, commit_lsn, ordinal, end_lsn, fence, owner)"
        " VALUES (%(group)s, %(sink)s, %(shard)s, %(incarnation)s, %(start)s, 0, '0/0', 1,"
        " %(owner)s)"
        " ON CONFLICT (group_name, sink, shard) DO UPDATE SET incarnation = excluded.incarnation,"
        " commit_lsn = excluded.commit_lsn, ordinal = 0, end_lsn = excluded.end_lsn,"
        " fence = (SELECT max(f.fence) + 1 FROM pgflo.progress f"
        " WHERE f.group_name = p.group_name AND f.sink = p.sink), updated_at = clock_timestamp()"
        " WHERE p.owner = excluded.owner",
        {
            "group": to.group,
            "sink": to.sink,
            "shard": FIRST,
            "incarnation": incarnation,
            "start": _core.lsn_format(start_lsn),
            "owner": to.owner,
        },
    )
    if moved.rowcount != 1:
        raise superseded(to)
    _keep_shards(conn, to, 1)
    ids = {"group": to.group, "sink": to.sink, "incarnation": incarnation}
    conn.execute(
        "DELETE FROM pgflo.assignment WHERE group_name = %(group)s AND sink = %(sink)s", ids
    )
    conn.execute(
        "DELETE FROM pgflo.copied_ranges WHERE group_name = %(group)s AND sink = %(sink)s"
        " AND incarnation <> %(incarnation)s",
        ids,
    )


def hold(conn: psycopg.Connection[TupleRow], to: Destination, incarnation: uuid.UUID) -> None:
    """Keep the rows ours, at this incarnation, until the commit. Raises GROUP_SUPERSEDED."""
    held = conn.execute(
        "SELECT FROM pgflo.progress WHERE group_name = %s AND sink = %s AND owner = %s"
        " AND incarnation = %s ORDER BY shard FOR UPDATE",
        (to.group, to.sink, to.owner, incarnation),
    )
    if held.rowcount == 0:
        raise superseded(to)


def start_streaming(conn: psycopg.Connection[TupleRow], to: Destination, start_lsn: int) -> None:
    """Say that every row of the copy is there: from now on end_lsn names a state of the source."""
    with conn.transaction():
        _lock(conn, to)
        moved = conn.execute(
            "UPDATE pgflo.progress SET end_lsn = GREATEST(end_lsn, %s),"
            " updated_at = clock_timestamp() WHERE group_name = %s AND sink = %s AND owner = %s",
            (_core.lsn_format(start_lsn), to.group, to.sink, to.owner),
        )
    if moved.rowcount == 0:
        raise superseded(to)


def is_streaming(conn: psycopg.Connection[TupleRow], to: Destination) -> bool:
    """Whether `start_streaming` was called for this incarnation."""
    found = conn.execute(
        "SELECT FROM pgflo.progress WHERE group_name = %s AND sink = %s AND end_lsn > '0/0'",
        (to.group, to.sink),
    )
    return found.rowcount > 0


def standing_lsn(conn: psycopg.Connection[TupleRow], to: Destination) -> int:
    """Give the end of the last commit that is applied; 0 until `start_streaming`.

    Also 0 while shards stand at different positions: then the destination is no state of the
    source.
    """
    row = conn.execute(
        "SELECT CASE WHEN count(DISTINCT (commit_lsn, ordinal)) = 1"
        " THEN (min(end_lsn) - '0/0')::bigint ELSE 0 END"
        " FROM pgflo.progress WHERE group_name = %s AND sink = %s",
        (to.group, to.sink),
    ).fetchone()
    return row[0] if row is not None else 0


def move(
    conn: psycopg.Connection[TupleRow],
    to: Destination,
    held: Progress,
    position: tuple[int, int],
    end_lsn: int,
    others: Sequence[Progress] = (),
) -> Progress:
    """Move the row inside the transaction that holds the rows, and those of `others` with it.

    Raises GROUP_SUPERSEDED.
    """
    for row in sorted((held, *others), key=lambda row: row.shard):
        moved = conn.execute(
            sql.SQL(
                "UPDATE pgflo.progress SET commit_lsn = %s, ordinal = %s, end_lsn = %s,"
                " updated_at = clock_timestamp() {}"
            ).format(WHERE_HELD),
            (
                _core.lsn_format(position[0]),
                position[1],
                _core.lsn_format(end_lsn),
                *_held(to, row),
            ),
        )
        if moved.rowcount != 1:
            raise superseded(to)
    return replace(held, commit_lsn=position[0], ordinal=position[1], end_lsn=end_lsn)


def spread(
    conn: psycopg.Connection[TupleRow], to: Destination, rows: Sequence[Progress], shards: int
) -> None:
    """Make so many rows out of `rows`, which are all there are and stand at one position.

    Runs inside the transaction that writes what else changes with them. Raises GROUP_SUPERSEDED.
    """
    fence = max(row.fence for row in rows) + 1
    for row in sorted(rows, key=lambda row: row.shard):
        kept = conn.execute(
            sql.SQL("UPDATE pgflo.progress SET fence = %s {}").format(WHERE_HELD),
            (fence, *_held(to, row)),
        )
        if kept.rowcount != 1:
            raise superseded(to)
    _keep_shards(conn, to, shards)
    conn.execute(
        "INSERT INTO pgflo.progress"
        " (group_name, sink, shard, incarnation, commit_lsn, ordinal, end_lsn, fence, owner)"
        " SELECT group_name, sink, n, incarnation, commit_lsn, ordinal, %(end)s, fence, owner"
        " FROM pgflo.progress, generate_series(%(first)s::int, %(last)s) AS n"
        " WHERE group_name = %(group)s AND sink = %(sink)s AND shard = %(shard)s",
        {
            "end": _core.lsn_format(min(row.end_lsn for row in rows)),
            "first": len(rows),
            "last": shards - 1,
            "group": to.group,
            "sink": to.sink,
            "shard": FIRST,
        },
    )


def superseded(to: Destination) -> PgfloError:
    """Say that another worker has taken the sink's progress row."""
    return contract.superseded(to.group, to.sink)


def _held(to: Destination, row: Progress) -> tuple[object, ...]:
    """Give the parameters of WHERE_HELD."""
    return (
        to.group,
        to.sink,
        row.shard,
        row.incarnation,
        row.fence,
        _core.lsn_format(row.commit_lsn),
        row.ordinal,
    )


def _lock(conn: psycopg.Connection[TupleRow], to: Destination) -> None:
    """Lock all rows in the order of their shards: the UPDATE that follows goes in any."""
    conn.execute(
        "SELECT FROM pgflo.progress WHERE group_name = %s AND sink = %s ORDER BY shard FOR UPDATE",
        (to.group, to.sink),
    )


def _keep_shards(conn: psycopg.Connection[TupleRow], to: Destination, shards: int) -> None:
    conn.execute(
        "DELETE FROM pgflo.progress WHERE group_name = %s AND sink = %s AND shard >= %s",
        (to.group, to.sink, shards),
    )


def _taken(cursor: psycopg.Cursor[TupleRow]) -> list[Progress]:
    rows = [
        Progress(
            shard,
            incarnation,
            _core.lsn_parse(commit_lsn),
            ordinal,
            _core.lsn_parse(end_lsn),
            fence,
        )
        for shard, incarnation, commit_lsn, ordinal, end_lsn, fence in cursor
    ]
    return sorted(rows, key=lambda row: row.shard)
