"""Which tables a group has: patterns resolved to tables, columns, keys and sizes.

Upstream: patterns (what the user meant) and the source's catalog. Downstream: preflight,
publication, the copy, and the group's record.
Invariant: every table that a pattern means is either in the answer or named in a finding; nothing
is left out silently. Partitioned tables are given as their leaves, since those hold the rows.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psycopg.rows import namedtuple_row

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.source import own_types
from pgflo.source.patterns import TablePattern, parse, quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

    from pgflo.config.settings import SourceSettings
    from pgflo.source.own_types import SourceType

PERMANENT, UNLOGGED, TEMPORARY = "p", "u", "t"
ORDINARY, PARTITIONED, FOREIGN = "r", "p", "f"

_KIND_NAMES = {
    "v": "a view",
    "m": "a materialized view",
    "S": "a sequence",
    "f": "a foreign table",
    "i": "an index",
    "c": "a composite type",
}

_CANDIDATES = """
SELECT c.oid::int8 AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       c.relpersistence::text AS persistence,
       c.relreplident::text AS identity,
       coalesce(nullif(pg_partition_root(c.oid), c.oid), 0)::int8 AS root_oid,
       coalesce(pg_get_partition_constraintdef(c.oid), '') AS bounds,
       ARRAY(SELECT a.relid::oid::int8 FROM pg_catalog.pg_partition_ancestors(c.oid) a
             WHERE a.relid <> c.oid) AS ancestors,
       has_table_privilege(c.oid, 'SELECT') AS may_read,
       pg_has_role(c.relowner, 'USAGE') AS may_publish
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname = ANY (%s) OR c.oid IN (
        SELECT t.relid FROM pg_catalog.pg_class r
        JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace,
        pg_catalog.pg_partition_tree(r.oid) t
        WHERE r.relkind = 'p' AND rn.nspname = ANY (%s)))
  AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
ORDER BY n.nspname, c.relname
"""

_PRESENT = """
SELECT c.oid::int8, n.nspname, c.relname, c.relreplident::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%s::oid[]) AND c.relkind = 'r'
"""

_COLUMNS = """
SELECT a.attrelid::int8 AS oid, a.attname AS name, a.atttypid::int8 AS type_oid,
       format_type(a.atttypid, NULL) AS type_name, a.atttypmod AS typmod,
       base.oid::int8 AS base_oid, base.typtype = 'e' AS is_enum, base.typcategory::text AS category
FROM pg_catalog.pg_attribute a
CROSS JOIN LATERAL (
    WITH RECURSIVE beneath AS (
        SELECT * FROM pg_catalog.pg_type WHERE oid = a.atttypid
        UNION ALL
        SELECT t.* FROM beneath b JOIN pg_catalog.pg_type t ON t.oid = b.typbasetype
        WHERE b.typtype = 'd'
    ) SELECT oid, typtype, typcategory FROM beneath WHERE typtype <> 'd'
) base
WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attrelid, a.attnum
"""

_KEYS = """
SELECT c.oid::int8 AS oid,
       ARRAY(SELECT a.attname::text
             FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS key
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
WHERE c.oid = ANY (%s::oid[]) AND i.indisvalid AND i.indimmediate
  AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
"""
# A deferrable primary key is no replica identity (`indimmediate`): PostgreSQL ignores it as well.


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column that is copied and streamed; generated ones are not."""

    name: str
    type_oid: int
    type_name: str
    typmod: int
    base_oid: int
    """The type beneath domains, else the type itself."""
    is_enum: bool
    category: str
    """pg_type.typcategory: S are character strings."""


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table that holds rows: an ordinary table, or a leaf of a partitioned one."""

    oid: int
    schema: str
    name: str
    root: tuple[str, str] | None
    """Schema and name of the partitioned table it belongs to."""
    root_oid: int
    bounds: str
    """Which rows of its root it holds, as an SQL condition; empty without a root."""
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]
    """Columns of the replica identity, or of the primary key if that is FULL. May be empty."""
    identity: str
    """`relreplident`: d(efault), n(othing), f(ull) or i(ndex)."""
    insert_only: bool
    may_read: bool
    may_publish: bool
    types: tuple[SourceType, ...] = ()
    """What types of its columns are made of that only the source has."""

    @property
    def has_usable_identity(self) -> bool:
        """Whether PostgreSQL can tell which row an UPDATE or DELETE meant."""
        return self.identity == "f" or (self.identity != "n" and bool(self.key))

    def __str__(self) -> str:
        return f"{quote(self.schema)}.{quote(self.name)}"


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication lists: one table, or a partitioned one with all its leaves."""

    schema: str
    name: str
    partitioned: bool
    insert_only: bool


@dataclass(frozen=True, slots=True)
class TableSet:
    """The tables of a group. `findings` are reasons not to start, each with its hint."""

    tables: tuple[SourceTable, ...]
    published: tuple[Published, ...]
    findings: tuple[PgfloError, ...]


async def resolve(conn: psycopg.AsyncConnection[Any], settings: SourceSettings) -> TableSet:
    """Find the tables that the settings mean. Raises `PgfloError` (USAGE) for unreadable patterns.

    Four queries, whatever the number of tables.
    """
    wanted = parse(settings.tables, settings.schema_name)
    excluded = parse(settings.exclude_tables, settings.schema_name)
    insert_only = parse(settings.insert_only_tables, settings.schema_name)
    if not wanted:
        wanted = (TablePattern(settings.schema_name, None),)
    schemas = sorted({pattern.schema for pattern in (*wanted, *insert_only)})
    cursor = conn.cursor(row_factory=namedtuple_row)
    rows = await (await cursor.execute(_CANDIDATES, (schemas, schemas))).fetchall()
    choice = _Choice(rows, wanted, excluded, insert_only)
    found = {
        row.oid: SourceTable(
            oid=row.oid,
            schema=row.schema,
            name=row.name,
            root=choice.name_of(row.root_oid),
            root_oid=row.root_oid,
            bounds=row.bounds,
            columns=(),
            key=(),
            identity=row.identity,
            insert_only=choice.is_insert_only(row),
            may_read=row.may_read,
            may_publish=row.may_publish and choice.may_publish_root(row),
        )
        for row in choice.leaves
    }
    tables = await describe(conn, found)
    return TableSet(tuple(tables.values()), tuple(choice.published()), tuple(choice.findings))


async def present(
    conn: psycopg.AsyncConnection[Any], tables: dict[int, SourceTable]
) -> dict[int, SourceTable]:
    """Give those of the tables that still exist, under their present names."""
    rows = await (await conn.execute(_PRESENT, (list(tables),))).fetchall()
    return {
        oid: replace(tables[oid], schema=schema, name=name, identity=identity)
        for oid, schema, name, identity in rows
    }


async def describe(
    conn: psycopg.AsyncConnection[Any], tables: dict[int, SourceTable]
) -> dict[int, SourceTable]:
    """Read columns, their types and keys as the transaction of `conn` sees them. Three queries."""
    oids = list(tables)
    columns: dict[int, list[SourceColumn]] = {oid: [] for oid in oids}
    for oid, *column in await (await conn.execute(_COLUMNS, (oids,))).fetchall():
        columns[oid].append(SourceColumn(*column))
    keys = {oid: tuple(key) for oid, key in await (await conn.execute(_KEYS, (oids,))).fetchall()}
    types = await own_types.describe(conn, oids)
    return {
        oid: replace(
            table, columns=tuple(columns[oid]), key=keys.get(oid, ()), types=types.get(oid, ())
        )
        for oid, table in tables.items()
    }


class _Choice:
    """Applies patterns to what exists: which leaves, which publication entries, which findings."""

    def __init__(
        self,
        rows: list[Any],
        wanted: tuple[TablePattern, ...],
        excluded: tuple[TablePattern, ...],
        insert_only: tuple[TablePattern, ...],
    ) -> None:
        self._by_oid = {row.oid: row for row in rows}
        self._insert_only = insert_only
        self._wanted = (*wanted, *(pattern for pattern in insert_only if pattern.name))
        self.findings: list[PgfloError] = []
        self._find_missing(rows)
        chosen = {row.oid for row in rows if self._is_chosen(row)}
        self.leaves = [
            row
            for row in rows
            if row.kind != PARTITIONED
            and not self._lies_in(row, excluded)
            and (row.oid in chosen or not chosen.isdisjoint(row.ancestors))
        ]
        self._roots = [
            row
            for row in rows
            if row.kind == PARTITIONED
            and not row.root_oid
            and row.oid in chosen
            and not self._lies_in(row, excluded)
        ]
        self._refuse_unpublishable()
        if not (self.leaves or self._roots or self.findings):
            patterns = ", ".join(map(str, wanted))
            self.findings.append(
                PgfloError(errors.TABLE_MISSING, f"there is no table that matches {patterns}")
            )

    def name_of(self, root_oid: int) -> tuple[str, str] | None:
        """Give schema and name of a partitioned table; None for 0."""
        row = self._by_oid.get(root_oid)
        return (row.schema, row.name) if row else None

    def may_publish_root(self, row: Any) -> bool:  # noqa: ANN401 - a namedtuple of the query
        """Whether the partitioned table above, if any, may be published as well."""
        root = self._by_oid.get(row.root_oid)
        return root is None or root.may_publish

    def is_insert_only(self, row: Any) -> bool:  # noqa: ANN401 - a namedtuple of the query
        """Whether the table, or one above it, is for inserts and truncates only."""
        return self._lies_in(row, self._insert_only)

    def published(self) -> Iterable[Published]:
        """Give what the publications list.

        A partitioned table stands for its leaves, future ones included, unless one of them is left
        out or treated in another way; then the leaves are listed one by one.
        """
        chosen = {row.oid for row in self.leaves}
        # A chosen partitioned table without partitions is published for those to come.
        whole = {row.oid: True for row in self._roots}
        for row in self._by_oid.values():
            root = self._by_oid.get(row.root_oid)
            if root is not None and row.kind != PARTITIONED:
                same = row.oid in chosen and self.is_insert_only(row) == self.is_insert_only(root)
                whole[root.oid] = whole.get(root.oid, True) and same
        for oid in sorted(oid for oid, is_whole in whole.items() if is_whole):
            root = self._by_oid[oid]
            yield Published(root.schema, root.name, True, self.is_insert_only(root))
        for row in self.leaves:
            if not whole.get(row.root_oid, False):
                yield Published(row.schema, row.name, False, self.is_insert_only(row))

    def _is_chosen(self, row: Any) -> bool:  # noqa: ANN401
        named = any(
            pattern.name and pattern.matches(row.schema, row.name) for pattern in self._wanted
        )
        # `*` means tables: what else lives in the schema is no part of it.
        return named or (row.kind in (ORDINARY, PARTITIONED) and self._matches(self._wanted, row))

    def _lies_in(self, row: Any, patterns: tuple[TablePattern, ...]) -> bool:  # noqa: ANN401
        above = (self._by_oid[oid] for oid in row.ancestors if oid in self._by_oid)
        return any(self._matches(patterns, table) for table in (row, *above))

    @staticmethod
    def _matches(patterns: tuple[TablePattern, ...], row: Any) -> bool:  # noqa: ANN401
        return any(pattern.matches(row.schema, row.name) for pattern in patterns)

    def _find_missing(self, rows: list[Any]) -> None:
        names = {(row.schema, row.name) for row in rows}
        for pattern in dict.fromkeys(self._wanted):
            if pattern.name is None or (pattern.schema, pattern.name) in names:
                continue
            here = [name for schema, name in names if schema == pattern.schema]
            close = difflib.get_close_matches(pattern.name, here, n=3)
            meant = f"; did you mean {', '.join(map(quote, close))}?" if close else ""
            self.findings.append(
                PgfloError(
                    errors.TABLE_MISSING,
                    f"table {pattern} does not exist{meant}",
                    table=str(pattern),
                )
            )

    def _refuse_unpublishable(self) -> None:
        for row in list(self.leaves):
            reason = _KIND_NAMES.get(row.kind)
            name = f"{quote(row.schema)}.{quote(row.name)}"
            hint = None
            if row.persistence == TEMPORARY:
                reason = "temporary"
            elif row.persistence == UNLOGGED:
                reason = "unlogged"
                hint = (
                    f"Run `ALTER TABLE {name} SET LOGGED;`, or leave it out: "
                    f"--exclude-tables '{name}'."
                )
            if reason:
                self.leaves.remove(row)
                self.findings.append(
                    PgfloError(
                        errors.TABLE_UNSUPPORTED, f"{name} is {reason}", hint=hint, table=name
                    )
                )
