"""Chooses which tables are spread over the shards by key, and which go whole to one of them.

Upstream: the worker, at its start with the tables of the group's record, later with a table that
the record does not know. Downstream: the destination's catalog; `assignment`.
Invariant: two changes that may meet in one row, or in one entry of a unique index, get one shard.

By key goes a table whose rows are told apart by one unique index that is enforced at once, has no
NULLs, and is the only thing that can refuse a row because of another one; and only by columns whose
equality is that of their text. Everything else goes whole. A partitioned destination is one table
here, however many of its partitions the source writes to. Where routes lead several tables into
one, or one into several, all of them are spread by one key, or none is. A key that rules change is
none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgflo.rules.destinations import Destined, own, routed_to
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
    destinations: tuple[Destined, ...] = ()
    """Where rules send its rows; none: to the table of its name."""

    @classmethod
    def of(
        cls,
        relation: _core.Relation,
        root: tuple[str, str] | None,
        rules: _core.RuleSet | None = None,
    ) -> SourceShape:
        """Describe a table as it came in the change stream. Raises `_core.RulesError`."""
        full = relation.replica_identity == "f"
        columns = {
            column.name: KeyColumn(column.name, column.type_oid, column.typmod)
            for column in relation.columns
        }
        identity = tuple(column.name for column in relation.columns if column.key and not full)
        destinations: tuple[Destined, ...] = ()
        if rules is not None:
            program = rules.compile(
                relation.oid,
                (relation.schema, relation.name),
                relation.replica_identity,
                [(c.name, c.type_oid, c.typmod, c.key) for c in relation.columns],
            )
            names = list(columns)
            destinations = tuple(routed_to(routed, names, root) for routed in program.routes)
        return cls(
            relation.oid,
            relation.schema,
            relation.name,
            root,
            full,
            identity,
            columns,
            destinations,
        )

    def all_destinations(self) -> tuple[Destined, ...]:
        """Tell where its rows go."""
        return self.destinations or (
            own(self.oid, self.schema, self.name, self.root, self.columns),
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """What the catalog says about one destination of a source table."""

    tree: str
    """The table, or the root of its partitions; what there is none of goes by its own name."""
    key: tuple[str, ...] = ()
    """Columns of its key there; none: the table goes whole."""
    source_key: tuple[KeyColumn, ...] = ()
    """The same columns at the source."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What the catalog says about one source table."""

    shape: SourceShape
    places: tuple[_Place, ...]

    @property
    def key(self) -> tuple[KeyColumn, ...]:
        """By which it can be spread, as far as it alone is concerned; none: it goes whole."""
        keys = {place.source_key for place in self.places}
        return keys.pop() if len(keys) == 1 else ()


class Placement:
    """What was found, table by table, and the assignment that follows from it."""

    def __init__(
        self,
        shards: int,
        roots: Mapping[int, tuple[str, str] | None],
        rules: _core.RuleSet | None = None,
    ) -> None:
        self._shards = shards
        self._roots = roots
        self._rules = rules
        self._found: dict[int, _Found] = {}

    def look(self, conn: psycopg.Connection[TupleRow], shapes: Iterable[SourceShape]) -> Assignment:
        """Look at the destination of these tables, besides those known."""
        if self._shards > 1:
            for shape in shapes:
                self._found[shape.oid] = _find(conn, shape)
        return self._assignment()

    def learn(self, conn: psycopg.Connection[TupleRow], relation: _core.Relation) -> Assignment:
        """Look at the destination of a table that came in the change stream.

        Raises `_core.RulesError`.
        """
        root = self._roots.get(relation.oid)
        return self.look(conn, [SourceShape.of(relation, root, self._rules)])

    def _assignment(self) -> Assignment:
        if self._shards == 1:
            return ONE
        together = _together(self._found.values())
        return Assignment(
            self._shards,
            {
                oid: Route(
                    schema=found.shape.schema,
                    name=found.shape.name,
                    full=found.shape.full,
                    identity=tuple(sorted(found.shape.identity)),
                    key=found.key if together[oid].by_key else (),
                    shard=_shard_of(together[oid].name, self._shards),
                )
                for oid, found in self._found.items()
            },
        )


@dataclass(slots=True)
class _Together:
    """Source tables whose rows meet in a destination, and what further tables meet them."""

    oids: set[int]
    trees: set[str]
    by_key: bool = False

    @property
    def name(self) -> str:
        """The same for the same tables, in whatever order they were found."""
        return min(self.trees)


def _together(all_found: Iterable[_Found]) -> dict[int, _Together]:
    """Join source tables that share destinations: spread alike, or all whole to one shard."""
    all_found = list(all_found)
    joined: list[_Together] = []
    for found in all_found:
        one = _Together({found.shape.oid}, {place.tree for place in found.places})
        for other in [other for other in joined if other.trees & one.trees]:
            joined.remove(other)
            one.oids |= other.oids
            one.trees |= other.trees
        joined.append(one)
    for one in joined:
        members = [found for found in all_found if found.shape.oid in one.oids]
        keys: dict[str, set[tuple[str, ...]]] = {}
        for place in (place for found in members for place in found.places):
            keys.setdefault(place.tree, set()).add(place.key)
        one.by_key = all(found.key for found in members) and all(
            len(of_tree) == 1 for of_tree in keys.values()
        )
    return {oid: one for one in joined for oid in one.oids}


def _find(conn: psycopg.Connection[TupleRow], shape: SourceShape) -> _Found:
    places = (_place(conn, shape, destination) for destination in shape.all_destinations())
    return _Found(shape, tuple(places))


def _place(conn: psycopg.Connection[TupleRow], shape: SourceShape, to: Destined) -> _Place:
    table = find_table(conn, to.schema, to.name, to.root)
    if table is None:
        return _Place(to.label)
    at_source = {here: shape.columns[name] for name, here in to.columns if name in shape.columns}
    identity = to.here(shape.identity)
    row = conn.execute(TREE_QUERY, {"oid": table.oid}).fetchone()
    tree, one_index = row if row is not None else (f"{table.schema}.{table.name}", False)
    key = key_of_rows(identity, at_source, table) if one_index else None
    if key is None or not (key.immediate and (key.not_null or key.primary)):
        return _Place(tree)
    if any(operator != ("pg_catalog", "=") for operator in key.operators):
        return _Place(tree)
    spread = {
        name
        for name, type_oid, typmod, generated, deterministic in conn.execute(
            COLUMNS_QUERY, (table.oid,)
        )
        if name in at_source
        and not generated
        and deterministic
        and at_source[name].name not in to.transformed
        and _same_text(at_source[name], type_oid, typmod)
    }
    if not all(name in spread for name in key.columns):
        return _Place(tree)
    return _Place(tree, key.columns, tuple(at_source[name] for name in key.columns))


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
