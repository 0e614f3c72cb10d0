"""What the destination's tables look like: columns, generated ones, unique keys, partitions.

Upstream: the writer asks when a relation first appears, the worker when it prepares tables.
Downstream: `statements` and `truncate` build SQL from what is found here.
Invariant: a `Table` describes the destination as it was in one query; names come from its catalog.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    from psycopg.rows import TupleRow

TABLE_QUERY = """
SELECT c.oid::bigint, c.relkind = 'p',
    c.relhasrules OR EXISTS (
        SELECT FROM pg_trigger g WHERE g.tgenabled IN ('A', 'R') AND (
            g.tgrelid = c.oid OR g.tgrelid IN (SELECT relid FROM pg_partition_tree(c.oid))
        )
    )
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""

COLUMNS_QUERY = """
SELECT attname, atttypid::bigint, attgenerated <> '', attidentity = 'a',
    CASE WHEN e.as_text THEN 0 ELSE t.typarray::bigint END,
    ascii(CASE WHEN e.as_text THEN ',' ELSE t.typdelim::text END), format_type(t.oid, -1),
    CASE WHEN atttypmod >= 0 THEN format_type(atttypid, atttypmod) END
FROM pg_attribute JOIN pg_type t ON t.oid = atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype
CROSS JOIN LATERAL (SELECT t.typarray = 0 OR 'c' IN (t.typtype, b.typtype)) AS e(as_text)
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped
ORDER BY attnum
"""

KEYS_QUERY = """
SELECT i.indisprimary, i.indimmediate, bool_and(a.attnotnull),
    array_agg(a.attname ORDER BY k.place),
    array_agg(on_.nspname ORDER BY k.place), array_agg(o.oprname ORDER BY k.place)
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey, i.indclass) WITH ORDINALITY AS k(attnum, opclass, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_opclass c ON c.oid = k.opclass
JOIN pg_amop e ON e.amopfamily = c.opcfamily AND e.amopstrategy = 3
    AND e.amoplefttype = c.opcintype AND e.amoprighttype = c.opcintype
JOIN pg_operator o ON o.oid = e.amopopr
JOIN pg_namespace on_ ON on_.oid = o.oprnamespace
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid
    AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
GROUP BY i.indexrelid, i.indisprimary, i.indimmediate
ORDER BY i.indisprimary DESC, i.indexrelid
"""
"""Strategy 3 of a btree is equality: an operator of an extension (citext) has its own schema."""


BOUNDS_QUERY = """
SELECT pg_get_partition_constraintdef(c.oid)
FROM pg_class c
JOIN pg_class r ON r.oid = pg_partition_root(c.oid)
JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE c.oid = %s AND c.relispartition AND n.nspname = %s AND r.relname = %s
"""

HASH_PARENT = re.compile(r"'\d+'::oid")
"""In the bounds of a hash partition stands the OID of its parent, which nobody else has."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a destination table."""

    name: str
    type_oid: int
    generated: bool
    identity_always: bool
    """GENERATED ALWAYS AS IDENTITY: an INSERT must override it, an UPDATE cannot set it."""
    array_oid: int
    """Type of arrays of its type; 0 if there is none, or if its elements come apart in FROM.
    Arrays of text stand in for them."""
    delimiter: int
    """The byte between two elements of the array that is sent."""
    type_name: str
    """Its type without modifier, as SQL."""
    stored_as: str | None = None
    """The type with its length or scale, as SQL text, if it has one."""


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """Columns that a unique index without predicate covers, and how it compares each."""

    columns: tuple[str, ...]
    operators: tuple[tuple[str, str], ...]
    """Schema and name of each column's equality operator."""
    primary: bool
    immediate: bool
    """False for a deferrable constraint, which is not enforced in replica role."""
    not_null: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A destination table."""

    oid: int
    schema: str
    name: str
    partitioned: bool
    columns: dict[str, Column]
    keys: tuple[UniqueKey, ...]
    """Unique keys, the primary one first."""
    acts_on_rows: bool
    """It has rules, or triggers that fire in replica role: they are to see each single change."""

    @property
    def identifier(self) -> sql.Identifier:
        """The quoted, qualified name."""
        return sql.Identifier(self.schema, self.name)

    @property
    def only(self) -> sql.Composed:
        """The name as a target: an inheritance parent alone, a partitioned table as a whole."""
        if self.partitioned:
            return sql.Composed([self.identifier])
        return sql.SQL("ONLY {}").format(self.identifier)

    def key_over(self, columns: Sequence[str]) -> UniqueKey | None:
        """Give the unique key over exactly these columns, an immediate one if there are several."""
        fitting = [key for key in self.keys if set(key.columns) == set(columns)]
        return min(fitting, key=lambda key: not key.immediate, default=None)

    def row_key(self) -> UniqueKey | None:
        """Give a key that tells rows apart by itself: the primary one, else one without NULLs."""
        return next((key for key in self.keys if key.primary or key.not_null), None)


def load_table(conn: psycopg.Connection[TupleRow], schema: str, name: str) -> Table | None:
    """Read a table's description; None if there is no such ordinary or partitioned table."""
    found = conn.execute(TABLE_QUERY, (schema, name)).fetchone()
    if found is None:
        return None
    oid, partitioned, acts_on_rows = found
    columns = {row[0]: Column(*row) for row in conn.execute(COLUMNS_QUERY, (oid,))}
    keys = tuple(
        UniqueKey(
            columns=tuple(names),
            operators=tuple(zip(schemas, operators, strict=True)),
            primary=primary,
            immediate=immediate,
            not_null=not_null,
        )
        for primary, immediate, not_null, names, schemas, operators in conn.execute(
            KEYS_QUERY, (oid,)
        )
    )
    return Table(oid, schema, name, partitioned, columns, keys, acts_on_rows)


def find_table(
    conn: psycopg.Connection[TupleRow],
    schema: str,
    name: str,
    root: tuple[str, str] | None,
    *,
    through_root: bool = False,
) -> Table | None:
    """Find where a source table's rows go: the table of its name, else its partition root's.

    `through_root`: the destination's partition of that name does not hold the same rows.
    """
    table = load_table(conn, schema, name) if root is None or not through_root else None
    if table is None and root is not None:
        table = load_table(conn, *root)
    return table


def is_cut_otherwise(
    conn: psycopg.Connection[TupleRow], table: Table, root: tuple[str, str], bounds: str
) -> bool:
    """Whether `table` is a partition of `root` that holds other rows than those within `bounds`."""
    found = conn.execute(BOUNDS_QUERY, (table.oid, *root)).fetchone()
    return found is not None and HASH_PARENT.sub("", found[0]) != HASH_PARENT.sub("", bounds)


def is_referenced_from_outside(conn: psycopg.Connection[TupleRow], oids: Sequence[int]) -> bool:
    """Whether a foreign key of a table not among `oids` points at one of them."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f'"
        " AND confrelid = ANY(%(oids)s::oid[]) AND conrelid <> ALL(%(oids)s::oid[]))",
        {"oids": list(oids)},
    ).fetchone()
    return row is not None and bool(row[0])
