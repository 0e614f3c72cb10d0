"""What types are made of that only the source has: domains and arrays, down to built-in types.

Upstream: the source's catalog. Downstream: `catalog`, the tables' records, sinks that print values.
Invariant: everything that a described type is made of is described as well, or built in, or known
by its text alone (enums, ranges, types of extensions).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

FIRST_OWN_OID = 10_000
"""Types from here on have other OIDs on other servers."""

_OWN_TYPES = """
WITH RECURSIVE used (relid, oid) AS (
    SELECT a.attrelid, a.atttypid FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT u.relid, part.oid FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid
    CROSS JOIN LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL
        SELECT t.typelem WHERE t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
    ) part (oid)
)
SELECT u.relid::int8, t.oid::int8,
       CASE WHEN t.typtype = 'd' THEN 'domain' ELSE 'array' END AS kind,
       CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END::int8 AS beneath,
       coalesce(element.typdelim, ',')::text AS delimiter
FROM used u
JOIN pg_catalog.pg_type t ON t.oid = u.oid
LEFT JOIN pg_catalog.pg_type element ON element.oid = t.typelem
WHERE t.oid >= %s AND (
    t.typtype = 'd' OR t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc)
ORDER BY u.relid, t.oid
"""


@dataclass(frozen=True, slots=True)
class SourceType:
    """A type that is made of others."""

    oid: int
    kind: str
    """`domain` or `array`."""
    beneath: int
    """OID of a domain's base type, or of the type of an array's elements."""
    delimiter: str
    """What stands between the elements of an array."""


async def describe(
    conn: psycopg.AsyncConnection[Any], tables: list[int]
) -> dict[int, tuple[SourceType, ...]]:
    """Tell what the columns' types of each table are made of, as the transaction sees it."""
    found: dict[int, list[SourceType]] = defaultdict(list)
    for oid, *made in await (await conn.execute(_OWN_TYPES, (tables, FIRST_OWN_OID))).fetchall():
        found[oid].append(SourceType(*made))
    return {oid: tuple(types) for oid, types in found.items()}
