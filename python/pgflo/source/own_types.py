"""What types are made of that only the source has: domains, arrays, composite types.

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
        UNION ALL
        SELECT a.atttypid FROM pg_catalog.pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) part (oid)
)
SELECT u.relid::int8, t.oid::int8,
       CASE t.typtype WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite' ELSE 'array' END AS kind,
       CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END::int8 AS beneath,
       coalesce(element.typdelim, ',')::text AS delimiter,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS names,
       ARRAY(SELECT a.atttypid::int8 FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS types
FROM used u
JOIN pg_catalog.pg_type t ON t.oid = u.oid
LEFT JOIN pg_catalog.pg_type element ON element.oid = t.typelem
WHERE t.typtype = 'c' OR t.oid >= %s AND (
    t.typtype = 'd' OR t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc)
ORDER BY u.relid, t.oid
"""


@dataclass(frozen=True, slots=True)
class SourceType:
    """A type that is made of others."""

    oid: int
    kind: str
    """`domain`, `array` or `composite`."""
    beneath: int
    """OID of a domain's base type, or of the type of an array's elements."""
    delimiter: str
    """What stands between the elements of an array."""
    attributes: tuple[tuple[str, int], ...] = ()
    """Names and type OIDs of a composite type's."""


async def describe(
    conn: psycopg.AsyncConnection[Any], tables: list[int]
) -> dict[int, tuple[SourceType, ...]]:
    """Tell what the columns' types of each table are made of, as the transaction sees it."""
    found: dict[int, list[SourceType]] = defaultdict(list)
    rows = await (await conn.execute(_OWN_TYPES, (tables, FIRST_OWN_OID))).fetchall()
    for table_oid, oid, kind, beneath, delimiter, names, type_oids in rows:
        attributes = tuple(zip(names, type_oids, strict=True))
        found[table_oid].append(SourceType(oid, kind, beneath, delimiter, attributes))
    return {oid: tuple(types) for oid, types in found.items()}
