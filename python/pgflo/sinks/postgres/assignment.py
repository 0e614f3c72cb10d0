"""Which shard a change belongs to: the assignment of a sink, and its row at the destination.

Upstream: `placement` makes one, the worker compares it with the stored one. Downstream: the
splitter's routes; table `pgflo.assignment`, where it is written in the transaction that moves all
progress rows, so that what a crash left uneven can be read under the assignment it was written by.
Invariant: an assignment and a change tell the shard; nothing else does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from pgflo import _core

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg
    from psycopg.rows import TupleRow

    from pgflo.sinks.postgres.connection import Destination


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column by whose text rows are spread, as the source describes it."""

    name: str
    type_oid: int
    typmod: int


@dataclass(frozen=True, slots=True)
class Route:
    """Where the changes of one source table go, and the definition for which that was said."""

    schema: str
    name: str
    full: bool
    """REPLICA IDENTITY FULL: old tuples are whole rows."""
    identity: tuple[str, ...]
    """Names of the columns of its replica identity, sorted; none under FULL."""
    key: tuple[KeyColumn, ...]
    """By hash of these, in this order; none: all to `shard`."""
    shard: int

    def fits(self, relation: _core.Relation) -> bool:
        """Whether it was said for this definition."""
        if (self.schema, self.name) != (relation.schema, relation.name):
            return False
        if not self.key:
            return True  # whatever became of its columns
        full = relation.replica_identity == "f"
        identity = [column.name for column in relation.columns if column.key and not full]
        columns = {column.name: column for column in relation.columns}
        return (self.full, self.identity) == (full, tuple(sorted(identity))) and all(
            key.name in columns
            and (columns[key.name].type_oid, columns[key.name].typmod) == (key.type_oid, key.typmod)
            for key in self.key
        )

    def give(self, splitter: _core.Splitter, relation: _core.Relation) -> None:
        """Tell the splitter."""
        number = {column.name: number for number, column in enumerate(relation.columns)}
        if self.key:
            splitter.route(relation.oid, key=[number[key.name] for key in self.key])
        else:
            splitter.route(relation.oid, shard=self.shard)


@dataclass(frozen=True, slots=True)
class Assignment:
    """How a sink's changes are spread."""

    shards: int
    tables: Mapping[int, Route] = field(default_factory=dict)
    """By oid at the source. What stands in none is a barrier until it does."""
    hash_version: int = _core.HASH_VERSION

    def route(self, relation: _core.Relation) -> Route | None:
        """Give the route of a table in this definition."""
        found = self.tables.get(relation.oid)
        return found if found is not None and found.fits(relation) else None

    def to_json(self) -> str:
        """Write it down, the same for equal ones."""
        tables = {
            str(oid): {
                "schema": route.schema,
                "name": route.name,
                "full": route.full,
                "identity": route.identity,
                "key": [[key.name, key.type_oid, key.typmod] for key in route.key],
                "shard": route.shard,
            }
            for oid, route in self.tables.items()
        }
        whole = {"shards": self.shards, "hash_version": self.hash_version, "tables": tables}
        return orjson.dumps(whole, option=orjson.OPT_SORT_KEYS).decode()

    @property
    def digest(self) -> str:
        """Tell equal ones by a short text."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()


ONE = Assignment(1)
"""One shard needs none, and has no row."""


def from_json(text: str) -> Assignment:
    """Read what `to_json` wrote."""
    whole: dict[str, Any] = orjson.loads(text)
    tables = {
        int(oid): Route(
            schema=told["schema"],
            name=told["name"],
            full=told["full"],
            identity=tuple(told["identity"]),
            key=tuple(KeyColumn(*column) for column in told["key"]),
            shard=told["shard"],
        )
        for oid, told in whole["tables"].items()
    }
    return Assignment(whole["shards"], tables, whole["hash_version"])


def read(conn: psycopg.Connection[TupleRow], to: Destination) -> Assignment:
    """Read the sink's assignment. Its rows are taken before that, so that nobody else writes it."""
    row = conn.execute(
        "SELECT jsonb_build_object('shards', shards, 'hash_version', hash_version,"
        " 'tables', tables)::text FROM pgflo.assignment WHERE group_name = %s AND sink = %s",
        (to.group, to.sink),
    ).fetchone()
    return ONE if row is None else from_json(row[0])


def write(conn: psycopg.Connection[TupleRow], to: Destination, assignment: Assignment) -> None:
    """Write it, inside the transaction that moves every progress row."""
    conn.execute(
        "INSERT INTO pgflo.assignment (group_name, sink, shards, hash_version, tables, digest)"
        " SELECT %(group)s, %(sink)s, (told->>'shards')::int, (told->>'hash_version')::int,"
        " told->'tables', %(digest)s FROM CAST(%(told)s AS jsonb) AS told"
        " ON CONFLICT (group_name, sink) DO UPDATE SET shards = excluded.shards,"
        " hash_version = excluded.hash_version, tables = excluded.tables, digest = excluded.digest",
        {
            "group": to.group,
            "sink": to.sink,
            "told": assignment.to_json(),
            "digest": assignment.digest,
        },
    )
