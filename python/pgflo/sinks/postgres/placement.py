"""Chooses which tables are spread over the shards by key, and which go whole to one of them.

Upstream: the worker, at its start with the tables of the group's record, later with a table that
the record does not know. Downstream: the destination's catalog; `assignment`.
Invariant: two changes that may meet in one row, or in one entry of a unique index, get one shard.

By key goes a table whose rows are told apart by one unique index that is enforced at once, has no
NULLs, and is the only thing that can refuse a row because of another one; and only by columns whose
equality is that of their text. Everything else goes whole. A partitioned destination is one table
here, however many of its partitions the source writes to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgflo.sinks.postgres.assignment import ONE, Assignment, KeyColumn, Route
from pgflo.sinks.postgres.catalog import find_table
from pgflo.sinks.postgres.row_search import key_of_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg
    from psycopg.rows import TupleRow

    from pgflo import _core

INTEGERS = "integer"
TEXTS = "text"

FAMILIES: dict[int, str] = {
    20: INTEGERS,
    21: INTEGERS,
    23: INTEGERS,
    25: TEXTS,
    1043: TEXTS,
    16: "bool",
    17: "bytea",
    26: "oid",
    1082: "date",
    1114: "timestamp",
    1184: "timestamptz",
    2950: "uuid",
}
"""Types of which equal values have one text, under the settings that sessions pin. Within a family
the text is the same too: an int4 of the source may be an int8 here."""

TREE_QUERY = """
SELECT format('%%I.%%I', n.nspname, c.relname), (
    SELECT bool_and(1 = (
        SELECT count(*) FROM pg_index i
        WHERE i.indrelid = m.relid AND (i.indisunique OR i.indisexclusion)
    ))
    FROM (SELECT c.oid AS relid UNION SELECT relid FROM pg_partition_tree(c.oid)) m
)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = COALESCE(pg_partition_root(%(oid)s::oid), %(oid)s::oid)
"""
"""The table that stands for all partitions, and whether each has one index that can refuse rows.
All count: partial ones, those over expressions, and those that are not valid yet."""

COLUMNS_QUERY = """
SELECT a.attname, a.atttypid::bigint, a.atttypmod, a.attgenerated <> '',
    bool_and(COALESCE(l.collisdeterministic, true))
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey, i.indcollation) AS k(attnum, collid)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
LEFT JOIN pg_collation l ON l.oid IN (k.collid, a.attcollation)
WHERE i.indrelid = %s AND i.indisunique
GROUP BY 1, 2, 3, 4
"""

ANY_TYPMOD = -1


@dataclass(frozen=True, slots=True)
class SourceShape:
    """A table as the source describes it: what its changes carry."""

    oid: int
    schema: str
    name: str
    root: tuple[str, str] | None
    full: bool
    identity: tuple[str, ...]
    """Columns of the replica identity; none under FULL, and for tables that only grow."""
    columns: Mapping[str, KeyColumn]

    @classmethod
    def of(cls, relation: _core.Relation, root: tuple[str, str] | None) -> SourceShape:
        """Describe a table as it came in the change stream."""
        full = relation.replica_identity == "f"
        columns = {
            column.name: KeyColumn(column.name, column.type_oid, column.typmod)
            for column in relation.columns
        }
        identity = tuple(column.name for column in relation.columns if column.key and not full)
        return cls(relation.oid, relation.schema, relation.name, root, full, identity, columns)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the destination says about one source table."""

    shape: SourceShape
    tree: str
    """The table, or the root of its partitions; what there is none of goes by its own name."""
    key: tuple[KeyColumn, ...]
    """Columns of the destination's key, in its order; none: the table goes whole."""


class Placement:
    """What was found, table by table, and the assignment that follows from it."""

    def __init__(self, shards: int, roots: Mapping[int, tuple[str, str] | None]) -> None:
        self._shards = shards
        self._roots = roots
        self._found: dict[int, _Found] = {}

    def look(self, conn: psycopg.Connection[TupleRow], shapes: Iterable[SourceShape]) -> Assignment:
        """Look at the destination of these tables, besides those known."""
        if self._shards > 1:
            for shape in shapes:
                self._found[shape.oid] = _find(conn, shape)
        return self._assignment()

    def learn(self, conn: psycopg.Connection[TupleRow], relation: _core.Relation) -> Assignment:
        """Look at the destination of a table that came in the change stream."""
        return self.look(conn, [SourceShape.of(relation, self._roots.get(relation.oid))])

    def _assignment(self) -> Assignment:
        if self._shards == 1:
            return ONE
        keys: dict[str, set[tuple[str, ...]]] = {}
        for found in self._found.values():
            keys.setdefault(found.tree, set()).add(tuple(column.name for column in found.key))
        return Assignment(
            self._shards,
            {
                oid: Route(
                    schema=found.shape.schema,
                    name=found.shape.name,
                    full=found.shape.full,
                    identity=tuple(sorted(found.shape.identity)),
                    key=found.key if len(keys[found.tree]) == 1 else (),
                    shard=_shard_of(found.tree, self._shards),
                )
                for oid, found in self._found.items()
            },
        )


def _find(conn: psycopg.Connection[TupleRow], shape: SourceShape) -> _Found:
    table = find_table(conn, shape.schema, shape.name, shape.root)
    if table is None:
        return _Found(shape, f"{shape.schema}.{shape.name}", ())
    row = conn.execute(TREE_QUERY, {"oid": table.oid}).fetchone()
    tree, one_index = row if row is not None else (f"{table.schema}.{table.name}", False)
    key = key_of_rows(shape.identity, shape.columns, table) if one_index else None
    if key is None or not (key.immediate and (key.not_null or key.primary)):
        return _Found(shape, tree, ())
    if any(operator != ("pg_catalog", "=") for operator in key.operators):
        return _Found(shape, tree, ())
    spread = {
        name
        for name, type_oid, typmod, generated, deterministic in conn.execute(
            COLUMNS_QUERY, (table.oid,)
        )
        if name in shape.columns
        and not generated
        and deterministic
        and _same_text(shape.columns[name], type_oid, typmod)
    }
    fits = all(name in spread for name in key.columns)
    return _Found(shape, tree, tuple(shape.columns[name] for name in key.columns) if fits else ())


def _same_text(source: KeyColumn, type_oid: int, typmod: int) -> bool:
    """Whether values that differ at the source differ here, and equal ones have one text."""
    family = FAMILIES.get(source.type_oid)
    return (
        family is not None
        and FAMILIES.get(type_oid) == family
        and typmod in (ANY_TYPMOD, source.typmod)
    )


def _shard_of(tree: str, shards: int) -> int:
    digest = hashlib.blake2b(tree.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards
