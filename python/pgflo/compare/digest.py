"""Count and hash of a table, computed by the server that holds it.

Upstream: `plan`. Downstream: two numbers per side and table; no row crosses the network.
Invariant: equal sets of rows give equal digests whatever their order. The hash is the exact sum
of a 64-bit hash of each row's text, so duplicates count, and the number of rows is compared as
well.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from pgflo.compare.sessions import source_failure, target_failure

if TYPE_CHECKING:
    from pgflo.compare.plan import Pair, Relation
    from pgflo.compare.sessions import Session, Sides


@dataclass(frozen=True, slots=True)
class Digest:
    """Rows of one side, and their hash as a decimal number."""

    rows: int
    hash: str


async def digests(sides: Sides, pair: Pair) -> tuple[Digest, Digest]:
    """Have both servers work at the same time. About 2 µs of server time per short row."""
    if pair.source is None or pair.target is None:
        raise ValueError(f"{pair.title} is no pair")
    utf8 = not sides.same_encoding
    left, right = await asyncio.gather(
        _digest(sides.source, pair.source, pair.columns, pair.leaf_oids, utf8=utf8),
        _digest(sides.target, pair.target, pair.columns, (), utf8=utf8),
        return_exceptions=True,
    )
    if isinstance(left, psycopg.Error):
        raise source_failure(left) from None
    if isinstance(right, psycopg.Error):
        raise target_failure(right) from None
    if isinstance(left, BaseException):
        raise left
    if isinstance(right, BaseException):
        raise right
    return left, right


async def count(session: Session, relation: Relation) -> int:
    """Count the rows of a table that has no partner."""
    query = sql.SQL("SELECT count(*) FROM {}").format(_from(relation))
    row: Any = await (await session.execute(query)).fetchone()
    return int(row[0])


async def _digest(
    session: Session,
    relation: Relation,
    columns: tuple[str, ...],
    leaf_oids: tuple[int, ...],
    *,
    utf8: bool,
) -> Digest:
    query = statement(relation, columns, only_leaves=bool(leaf_oids), utf8=utf8)
    row: Any = await (
        await session.execute(query, (list(leaf_oids),) if leaf_oids else None)
    ).fetchone()
    return Digest(int(row[0]), str(row[1]))


def statement(
    relation: Relation, columns: tuple[str, ...], *, only_leaves: bool, utf8: bool
) -> sql.Composed:
    """Build the query; `utf8` for databases of different encodings, whose bytes differ."""
    row = sql.SQL("ROW({})::text").format(
        sql.SQL(", ").join(sql.Identifier("t", column) for column in columns)
    )
    if utf8:
        row = sql.SQL("pg_catalog.encode(pg_catalog.convert_to({}, 'UTF8'), 'hex')").format(row)
    return sql.SQL(
        "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum("
        'pg_catalog.hashtextextended({} COLLATE "C", 0)), 0)::text FROM {} t{}'
    ).format(
        row,
        _from(relation),
        sql.SQL(" WHERE t.tableoid = ANY (%s::oid[])" if only_leaves else ""),
    )


def _from(relation: Relation) -> sql.Composed:
    # Children by inheritance are tables of their own.
    only = sql.SQL("" if relation.partitioned else "ONLY ")
    return sql.SQL("{}{}").format(only, sql.Identifier(relation.schema, relation.name))
