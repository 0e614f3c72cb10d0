"""Sequences that the group's tables take numbers from, and where each of them stands.

Upstream: the replicator, every few seconds. Downstream: the source's catalog, and the sequences,
which are read like tables.
Invariant: what is read here covers every row that was committed before: its number was taken
earlier still.

They are those that a column owns (serial, identity), and those that a default names. One whose name
a function makes up as it runs is not found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from pgflo.broker.records import SequenceRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FIND = """
WITH members AS (
    SELECT array_agg(DISTINCT oid) AS oids FROM unnest(%s::oid[]) AS t (leaf)
    CROSS JOIN LATERAL (
        SELECT leaf UNION SELECT relid FROM pg_catalog.pg_partition_ancestors(leaf)
    ) AS a (oid)
), found AS (
    SELECT d.objid AS oid, d.refobjid AS owner, d.refobjsubid AS attnum
    FROM pg_catalog.pg_depend d
    WHERE d.refobjid = ANY ((SELECT oids FROM members)::oid[]) AND d.classid = 'pg_class'::regclass
      AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
  UNION ALL
    SELECT d.refobjid, NULL, NULL
    FROM pg_catalog.pg_attrdef a
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid
    WHERE a.adrelid = ANY ((SELECT oids FROM members)::oid[])
      AND d.refclassid = 'pg_class'::regclass
)
SELECT c.oid::int8 AS oid, n.nspname AS schema, c.relname AS name,
       max(tn.nspname::text) AS table_schema, max(t.relname::text) AS table_name,
       max(a.attname::text) AS column, s.seqincrement AS increment, s.seqcycle AS cycles,
       p.may_read,
       CASE WHEN p.may_read THEN pg_catalog.pg_sequence_last_value(c.oid) END AS last_value
FROM found f
JOIN pg_catalog.pg_sequence s ON s.seqrelid = f.oid
JOIN pg_catalog.pg_class c ON c.oid = f.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
        AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
) AS p (may_read)
LEFT JOIN pg_catalog.pg_class t ON t.oid = f.owner
LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = f.owner AND a.attnum = f.attnum
GROUP BY c.oid, n.nspname, c.relname, s.seqincrement, s.seqcycle, p.may_read
ORDER BY c.oid
"""
"""The last value is none if no number was taken yet: then the sequence itself is read."""

READS_A_QUERY = 500
"""Sequences that one query reads."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All sequences at one time."""

    lsn: int
    """Every row that was committed before has its number covered."""
    sequences: tuple[SequenceRecord, ...]
    unreadable: tuple[tuple[str, str], ...]
    """Schema and name of those that the role may not read."""


async def read(conn: psycopg.AsyncConnection[Any], tables: Sequence[int]) -> Reading:
    """Read the sequences of these tables. Raises `psycopg.Error`, also when one is just dropped."""
    cursor = await conn.execute("SELECT (pg_catalog.pg_current_wal_lsn() - '0/0')::int8")
    (lsn,) = await cursor.fetchone() or (0,)
    rows = await (await conn.execute(FIND, (list(tables),))).fetchall()
    states: dict[int, tuple[int, bool]] = {
        oid: (last_value, True) for oid, *_, last_value in rows if last_value is not None
    }
    untouched = [
        (oid, schema, name)
        for oid, schema, name, *_, may_read, last_value in rows
        if may_read and last_value is None
    ]
    for first in range(0, len(untouched), READS_A_QUERY):
        query = sql.SQL(" UNION ALL ").join(_reads(untouched[first : first + READS_A_QUERY]))
        for oid, last_value, is_called in await (await conn.execute(query)).fetchall():
            states[oid] = last_value, is_called
    return Reading(
        lsn,
        tuple(
            SequenceRecord(
                schema=schema,
                name=name,
                table=(table_schema, table_name) if table_name is not None else None,
                column=column or "",
                increment=increment,
                cycles=cycles,
                last_value=states[oid][0],
                is_called=states[oid][1],
            )
            for oid, schema, name, table_schema, table_name, column, increment, cycles, *_ in rows
            if oid in states
        ),
        tuple((schema, name) for _, schema, name, *_, may_read, _ in rows if not may_read),
    )


def _reads(sequences: Sequence[tuple[int, str, str]]) -> Iterator[sql.Composed]:
    for oid, schema, name in sequences:
        yield sql.SQL("SELECT {}::int8, last_value, is_called FROM {}").format(
            sql.Literal(oid), sql.Identifier(schema, name)
        )
