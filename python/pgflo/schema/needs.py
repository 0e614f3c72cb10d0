"""Which relations of the source have to be in the dump, and which parts of them have to stay out.

Upstream: `sync`, in a transaction whose snapshot pg_dump shares. Downstream: the source's
`pg_depend`.
Invariant: what is needed is closed: no definition that is brought refers to a relation that is not.

Needed are the group's tables; what their columns, defaults, checks and indexes refer to; the tables
that they are partitions or children of. Foreign keys, triggers, rules and policies are not worth a
table that nobody asked for: those that refer to one stay out, and are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

RELATION_CLASS = 1259
"""OID of pg_class."""

NAMES_A_PATTERN = 200
"""Names in one pattern of pg_dump: it becomes one regular expression and one query."""

FORWARD = sql.SQL("""
    SELECT d.refclassid, d.refobjid FROM pg_catalog.pg_depend d
    WHERE d.classid = n.classid AND d.objid = n.objid AND NOT (
        -- A sequence belongs to a table, but does not need it.
        d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass
        AND (SELECT c.relkind FROM pg_catalog.pg_class c WHERE c.oid = d.objid) = 'S'
    )
""")

NEEDED = sql.SQL("""
WITH RECURSIVE needed (classid, objid) AS (
    SELECT 'pg_class'::regclass::oid, oid FROM unnest(%s::oid[]) AS t (oid)
  UNION
    SELECT step.* FROM needed n CROSS JOIN LATERAL (
        {forward}
      UNION ALL
        SELECT d.classid, d.objid
        FROM pg_catalog.pg_class t
        JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
        LEFT JOIN pg_catalog.pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
        LEFT JOIN pg_catalog.pg_constraint k
            ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
        WHERE n.classid = 'pg_class'::regclass AND t.oid = n.objid AND t.relkind IN ('r', 'p')
          AND (d.classid IN ('pg_attrdef'::regclass, 'pg_statistic_ext'::regclass)
               OR c.relkind IN ('i', 'I', 'S') OR k.contype IN ('c', 'p', 'u', 'x'))
      UNION ALL
        SELECT 'pg_class'::regclass, k.conindid FROM pg_catalog.pg_constraint k
        WHERE n.classid = 'pg_constraint'::regclass AND k.oid = n.objid
          AND k.contype IN ('p', 'u', 'x')
    ) step
)
SELECT classid::int8, objid::int8 FROM needed
""").format(forward=FORWARD)

OUTSIDE = sql.SQL("""
WITH RECURSIVE parts (of_class, of_oid, part, classid, objid) AS (
    SELECT p.*, p.of_class, p.of_oid FROM (
        SELECT 'pg_constraint'::regclass::oid, oid, 'foreign key ' || quote_ident(conname)
        FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conrelid = ANY (%(needed)s::oid[])
      UNION ALL
        SELECT 'pg_trigger'::regclass, oid, 'trigger ' || quote_ident(tgname)
        FROM pg_catalog.pg_trigger WHERE NOT tgisinternal AND tgrelid = ANY (%(needed)s::oid[])
      UNION ALL
        SELECT 'pg_rewrite'::regclass, r.oid, 'rule ' || quote_ident(r.rulename)
        FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
        WHERE c.relkind IN ('r', 'p') AND r.ev_class = ANY (%(needed)s::oid[])
      UNION ALL
        SELECT 'pg_policy'::regclass, oid, 'policy ' || quote_ident(polname)
        FROM pg_catalog.pg_policy WHERE polrelid = ANY (%(needed)s::oid[])
    ) AS p (of_class, of_oid, part)
  UNION
    SELECT n.of_class, n.of_oid, n.part, step.* FROM parts n CROSS JOIN LATERAL ({forward}) step
)
SELECT p.of_class::int8, p.of_oid::int8,
       min(p.part || ' refers to ' || format('%%I.%%I', s.nspname, c.relname))
FROM parts p
JOIN pg_catalog.pg_class c ON p.classid = 'pg_class'::regclass AND c.oid = p.objid
JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.oid <> ALL (%(needed)s::oid[])
GROUP BY 1, 2
""").format(forward=FORWARD)

RELATIONS = """
SELECT c.oid::int8, n.nspname, c.relname
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY 2, 3
"""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a dump of the source has to contain."""

    objects: frozenset[tuple[int, int]]
    """All that is needed, by class and OID. pg_dump's own dependencies do not tell all of it: a
    constraint does not name the operators of its index."""
    names: frozenset[tuple[str, str]]
    """Schema and name of the relations among them."""
    excluded: tuple[str, ...]
    """All others, as patterns for pg_dump."""
    left_out: dict[tuple[int, int], str]
    """Parts that refer to others: class and OID, with the reason."""


async def of_source(conn: psycopg.AsyncConnection[Any], tables: Sequence[int]) -> Needs:
    """Find what the tables need, in the transaction of `conn`."""
    found = await (await conn.execute(NEEDED, (list(tables),))).fetchall()
    needed = {oid for of_class, oid in found if of_class == RELATION_CLASS}
    relations = await (await conn.execute(RELATIONS)).fetchall()
    outside = await (await conn.execute(OUTSIDE, {"needed": list(needed)})).fetchall()
    return Needs(
        frozenset(found),
        frozenset((schema, name) for oid, schema, name in relations if oid in needed),
        patterns((schema, name) for oid, schema, name in relations if oid not in needed),
        {(of_class, oid): reason for of_class, oid, reason in outside},
    )


def patterns(names: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Write patterns of pg_dump that match exactly these relations, many in one."""
    by_schema: dict[str, list[str]] = {}
    for schema, name in names:
        by_schema.setdefault(schema, []).append(_quoted(name))
    return tuple(
        f"{_quoted(schema)}.({'|'.join(quoted[first : first + NAMES_A_PATTERN])})"
        for schema, quoted in by_schema.items()
        for first in range(0, len(quoted), NAMES_A_PATTERN)
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
