"""The plan at the destination: `pgflo.schema_parts`, one row for each part, done or not.

Upstream: `sync` stores a plan, `build` carries it out. Downstream: the destination's own commit.
Invariant: a part is marked as done in the transaction that makes it. Whoever comes later, or comes
a second time after it was thought dead, waits for that transaction and finds the mark.

A plan has a first row (number 0) with the OIDs of the source's tables that it is for, so that
"nothing to do" is told from "not planned yet", and a table that joins the group is noticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from pgflo import errors
from pgflo.errors import PgfloError, Retry, describe
from pgflo.schema.plan import Part, Stage
from pgflo.sinks.postgres.connection import failure, is_replica, kind_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Sequence

    from psycopg.rows import TupleRow

    from pgflo.errors import Kind
    from pgflo.sinks.postgres.connection import Destination

HEADLINE = 0
"""Number of the row that says that there is a plan; parts have pg_dump's numbers, from 1."""

SESSION = {
    # A function may name what is made after it.
    "check_function_bodies": "off",
    "xmloption": "content",
    "standard_conforming_strings": "on",
}

DEFAULTS = (
    "jit",
    "plan_cache_mode",
    "enable_seqscan",
    "enable_bitmapscan",
    "enable_hashjoin",
    "enable_mergejoin",
    "work_mem",
)
"""What sessions of the sink pin for changes, and what would ruin the check of a foreign key."""


def connect(to: Destination, role: str) -> psycopg.Connection[TupleRow]:
    """Open a session for making parts."""
    conn = to.connect(role)
    try:
        for name in DEFAULTS:
            conn.execute(sql.SQL("RESET {}").format(sql.Identifier(name)))
        if is_replica(conn):
            conn.execute("SET session_replication_role = origin")
        for name, value in SESSION.items():
            conn.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
    except psycopg.Error as error:
        conn.close()
        raise failure(error, "cannot set the session up") from None
    return conn


def planned_tables(
    conn: psycopg.Connection[TupleRow], to: Destination, incarnation: uuid.UUID
) -> frozenset[int] | None:
    """Give the source's tables that the incarnation's plan is for; None without a plan."""
    row = conn.execute(
        "SELECT tables FROM pgflo.schema_parts"
        " WHERE group_name = %s AND sink = %s AND number = %s AND incarnation = %s",
        (to.group, to.sink, HEADLINE, incarnation),
    ).fetchone()
    return None if row is None else frozenset(row[0])


def unfinished(conn: psycopg.Connection[TupleRow], to: Destination) -> frozenset[str]:
    """Give the labels of parts that are not made, of whatever incarnation."""
    found = conn.execute(
        "SELECT label FROM pgflo.schema_parts"
        " WHERE group_name = %s AND sink = %s AND done_at IS NULL",
        (to.group, to.sink),
    )
    return frozenset(row[0] for row in found)


def store(
    conn: psycopg.Connection[TupleRow],
    to: Destination,
    incarnation: uuid.UUID,
    planned: frozenset[int] | None,
    tables: Collection[int],
    parts: Sequence[Part],
) -> None:
    """Put a plan for these tables in place of a former incarnation's, or behind `planned`.

    Does nothing if that is not what stands there any more: then somebody else was faster.
    """
    with conn.transaction():
        # Two workers that plan at the same time do it one after the other.
        conn.execute("LOCK TABLE pgflo.schema_parts IN SHARE ROW EXCLUSIVE MODE")
        if planned_tables(conn, to, incarnation) != planned:
            return
        ids = (to.group, to.sink)
        if planned is None:
            conn.execute("DELETE FROM pgflo.schema_parts WHERE group_name = %s AND sink = %s", ids)
        row = conn.execute(
            "SELECT COALESCE(max(number), 0), COALESCE(max(place), 0) FROM pgflo.schema_parts"
            " WHERE group_name = %s AND sink = %s",
            ids,
        ).fetchone()
        last_number, last_place = row or (0, 0)
        conn.execute(
            "INSERT INTO pgflo.schema_parts VALUES"
            " (%s, %s, %s, %s, 0, 0, '', '', '{}', %s, false, clock_timestamp())"
            " ON CONFLICT (group_name, sink, number) DO UPDATE SET tables = excluded.tables",
            (*ids, HEADLINE, incarnation, sorted(tables)),
        )
        conn.cursor().executemany(
            "INSERT INTO pgflo.schema_parts VALUES"
            " (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, NULL)",
            [
                (
                    *(*ids, last_number + part.number, incarnation, int(part.stage)),
                    *(last_place + place, part.label, part.text),
                    [last_number + number for number in part.after],
                    *(list(part.tables), part.exclusive),
                )
                for place, part in enumerate(parts, 1)
            ],
        )


def open_parts(conn: psycopg.Connection[TupleRow], to: Destination) -> tuple[list[Part], int]:
    """Give the parts that are not made, in their order, and how many others come after the rows."""
    found = conn.execute(
        "SELECT number, stage, label, statements, needs, tables, exclusive"
        " FROM pgflo.schema_parts WHERE group_name = %s AND sink = %s AND done_at IS NULL"
        " ORDER BY stage, place",
        (to.group, to.sink),
    ).fetchall()
    done = conn.execute(
        "SELECT count(*) FROM pgflo.schema_parts"
        " WHERE group_name = %s AND sink = %s AND done_at IS NOT NULL AND stage <> %s",
        (to.group, to.sink, int(Stage.BEFORE_ROWS)),
    ).fetchone()
    parts = [
        Part(number, Stage(stage), label, text, tuple(needs), tuple(tables), exclusive)
        for number, stage, label, text, needs, tables, exclusive in found
    ]
    return parts, done[0] if done else 0


def make(conn: psycopg.Connection[TupleRow], to: Destination, parts: Sequence[Part]) -> None:
    """Make parts in one transaction, those that nobody has made meanwhile.

    Raises `PgfloError` that names the part: SCHEMA_REFUSED, SCHEMA_PRIVILEGE, or what time heals.
    """
    try:
        _make_all(conn, to, parts)
    except psycopg.Error as error:
        raise failure(error, f"making {parts[0].label}") from None


def _make_all(conn: psycopg.Connection[TupleRow], to: Destination, parts: Sequence[Part]) -> None:
    with conn.transaction():
        mine = {
            row[0]
            for row in conn.execute(
                "SELECT number FROM pgflo.schema_parts WHERE group_name = %s AND sink = %s"
                " AND number = ANY (%s) AND done_at IS NULL ORDER BY number FOR UPDATE",
                (to.group, to.sink, [part.number for part in parts]),
            )
        }
        for part in parts:
            if part.number in mine:
                _make(conn, part)
        conn.execute(
            "UPDATE pgflo.schema_parts SET done_at = clock_timestamp()"
            " WHERE group_name = %s AND sink = %s AND number = ANY (%s)",
            (to.group, to.sink, list(mine)),
        )


def _make(conn: psycopg.Connection[TupleRow], part: Part) -> None:
    try:
        conn.execute(part.text.encode())
    except psycopg.Error as error:
        told = describe(error)
        if part.stage is Stage.BEFORE_ROWS and error.diag.message_primary:
            # There are no rows yet that it could quote.
            told = f"{error.diag.message_primary} ({told})"
        raise PgfloError(
            _kind(error),
            f"cannot make {part.label}: {told}",
            sqlstate=error.sqlstate or "",
        ) from None


def _kind(error: psycopg.Error) -> Kind:
    kind = kind_of(error.sqlstate)
    if kind is errors.SINK_PRIVILEGE:
        return errors.SCHEMA_PRIVILEGE
    # 58: a file of an extension that is not installed there.
    is_passing = kind.retry is Retry.BACKOFF and not (error.sqlstate or "").startswith("58")
    return kind if is_passing else errors.SCHEMA_REFUSED
