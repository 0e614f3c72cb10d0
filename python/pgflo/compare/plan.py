"""Which tables are compared with which, and over which columns.

Upstream: table patterns, or the publications of a group. Downstream: `digest`.
Invariant: every table that is meant is in the plan, and each of its rows is in exactly one pair;
what cannot be compared is in the plan with the reason.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pgflo.broker.names import Names
from pgflo.errors import GROUP_UNKNOWN, TABLE_MISSING, PgfloError
from pgflo.source.catalog import resolve
from pgflo.source.patterns import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgflo.compare.sessions import Session, Sides
    from pgflo.config.settings import SourceSettings

_PUBLISHED = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_publication p
JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = ANY (%s) ORDER BY 1, 2
"""

_RELATION = """
SELECT c.oid::int8, c.relkind::text,
       ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
             AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attname),
       ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
             AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
"""

_LEAVES = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_partition_tree(%s::oid::regclass) t
JOIN pg_catalog.pg_class c ON c.oid = t.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE t.isleaf ORDER BY 1, 2
"""

_ROOT = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = pg_catalog.pg_partition_root(%s::oid::regclass) AND c.oid <> %s::oid
"""

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Relation:
    """One side of a pair."""

    schema: str
    name: str
    oid: int
    partitioned: bool
    columns: tuple[str, ...]
    """Without generated ones, by name."""
    all_columns: tuple[str, ...]

    def __str__(self) -> str:
        return f"{quote(self.schema)}.{quote(self.name)}"


@dataclass(frozen=True, slots=True)
class Pair:
    """One table on both sides. `problem` tells why its rows need not be looked at."""

    title: str
    source: Relation | None
    target: Relation | None
    columns: tuple[str, ...] = ()
    leaf_oids: tuple[int, ...] = field(default=())
    """Only rows of these leaves of the source count; none: all rows."""
    problem: str | None = None


async def published_tables(source: Session, group: str) -> list[Name]:
    """List what the group's publications name. Raises GROUP_UNKNOWN when there is none."""
    names = Names(group, uuid.UUID(int=0))
    publications = [names.publication, names.insert_publication]
    found = await (await source.execute(_PUBLISHED, (publications,))).fetchall()
    if not found:
        raise PgfloError(
            GROUP_UNKNOWN,
            f"the source has no publication of group {group}",
            hint=f"Start `pgflo replicate --group {group}` first, or name the tables: --tables.",
            group=group,
        )
    return [(row[0], row[1]) for row in found]


async def matching_tables(source: Session, settings: SourceSettings) -> list[Name]:
    """List what the patterns mean. Raises the first of the findings when a name means nothing."""
    found = await resolve(source, settings)
    missing = [finding for finding in found.findings if finding.kind is TABLE_MISSING]
    if missing:
        raise missing[0]
    return sorted((entry.schema, entry.name) for entry in found.published)


async def pairs(sides: Sides, tables: Iterable[Name]) -> list[Pair]:
    """Pair the tables.

    Partitioned tables are looked at as a whole, or leaf by leaf if only those exist.
    """
    made: list[Pair] = []
    through_roots: dict[Name, list[Relation]] = {}
    for name in tables:
        source = await _relation(sides.source, name)
        if source is None:
            continue  # dropped a moment ago
        target = await _relation(sides.target, name)
        if target is not None:
            made.append(_pair(source, target))
        elif source.partitioned:
            made += await _leaf_pairs(sides, source, through_roots)
        else:
            await _missing(sides, source, made, through_roots)
    for root_name, leaves in through_roots.items():
        made.append(await _root_pair(sides, root_name, leaves))
    return made


async def _leaf_pairs(
    sides: Sides, root: Relation, through_roots: dict[Name, list[Relation]]
) -> list[Pair]:
    """Pair the leaves of a partitioned table that the destination does not have as such."""
    made: list[Pair] = []
    leaves = await (await sides.source.execute(_LEAVES, (root.oid,))).fetchall()
    for schema, name in leaves:
        source = await _relation(sides.source, (schema, name))
        target = await _relation(sides.target, (schema, name))
        if source is not None and target is not None:
            made.append(_pair(source, target))
        elif source is not None:
            await _missing(sides, source, made, through_roots)
    return made or [Pair(str(root), root, None, problem="missing at the destination")]


async def _missing(
    sides: Sides, source: Relation, made: list[Pair], through_roots: dict[Name, list[Relation]]
) -> None:
    """Look for the partitioned table through which a leaf was written, else note it as missing."""
    row = await (await sides.source.execute(_ROOT, (source.oid, source.oid))).fetchone()
    if row is not None and await _relation(sides.target, (row[0], row[1])) is not None:
        through_roots.setdefault((row[0], row[1]), []).append(source)
    else:
        made.append(Pair(str(source), source, None, problem="missing at the destination"))


async def _root_pair(sides: Sides, root: Name, leaves: list[Relation]) -> Pair:
    source, target = await _relation(sides.source, root), await _relation(sides.target, root)
    if source is None or target is None:
        return Pair(f"{quote(root[0])}.{quote(root[1])}", None, None, problem="changed meanwhile")
    return _pair(source, target, tuple(leaf.oid for leaf in leaves))


def _pair(source: Relation, target: Relation, leaf_oids: tuple[int, ...] = ()) -> Pair:
    lacking = [column for column in source.columns if column not in target.all_columns]
    problem = None
    if lacking:
        problem = f"the destination lacks {', '.join(quote(column) for column in lacking)}"
    return Pair(str(source), source, target, source.columns, leaf_oids, problem)


async def _relation(session: Session, name: Name) -> Relation | None:
    row: Any = await (await session.execute(_RELATION, name)).fetchone()
    if row is None:
        return None
    return Relation(name[0], name[1], row[0], row[1] == "p", tuple(row[2]), tuple(row[3]))
