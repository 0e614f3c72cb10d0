"""ANALYZE of the tables that a copy has filled, before anybody plans a query on them.

Upstream: the worker, when every range is in place and the indexes are made. Downstream: the
destination's statistics.
Invariant: what cannot be analysed is told and passed: rows do not depend on it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import structlog
from psycopg import sql

from pgflo.sinks.postgres.connection import failure
from pgflo.sinks.postgres.long_statement import session, to_its_end
from pgflo.sinks.postgres.prepare import find_tables
from pgflo.supervisor.race import all_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.rows import TupleRow

    from pgflo.sinks.postgres.connection import Destination
    from pgflo.sinks.postgres.prepare import SourceTable

log = structlog.get_logger("pgflo.sinks.postgres")

WHOLE_TABLES = """
SELECT n.nspname, c.relname
FROM unnest(%s::oid[]) WITH ORDINALITY AS t (oid, place)
JOIN pg_catalog.pg_class c ON c.oid = COALESCE(pg_catalog.pg_partition_root(t.oid), t.oid)
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
GROUP BY 1, 2 ORDER BY min(t.place)
"""
"""A partitioned table is analysed as a whole: it has statistics of its own, which autovacuum never
gathers."""


async def analyze(to: Destination, tables: Sequence[SourceTable], connections: int) -> None:
    """Analyse the destinations of these tables, the first ones first. Raises what time heals."""
    started_at = time.monotonic()
    waiting = deque(await asyncio.to_thread(_whole_tables, to, tables))
    count = len(waiting)

    async def lane(number: int) -> None:
        async with session(partial(to.connect, f"analyze{number}")) as conn:
            while waiting:
                await to_its_end(conn, _analyze, conn, *waiting.popleft())

    await all_of(*(lane(number) for number in range(min(connections, count))))
    log.info("tables analysed", tables=count, seconds=round(time.monotonic() - started_at, 1))


def _whole_tables(to: Destination, tables: Sequence[SourceTable]) -> list[tuple[str, str]]:
    with to.connect("analyze") as conn:
        try:
            found = find_tables(conn, tables)
            oids = [found[table.oid].oid for table in tables]
            return [(schema, name) for schema, name in conn.execute(WHOLE_TABLES, (oids,))]
        except psycopg.Error as error:
            raise failure(error, "cannot tell which tables to analyse") from None


def _analyze(conn: psycopg.Connection[TupleRow], schema: str, name: str) -> None:
    try:
        conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, name)))
    except psycopg.Error as error:
        problem = failure(error, f"analysing {schema}.{name}")
        if problem.can_heal:
            raise problem from None
        log.warning("a table is not analysed", cause=problem.detail)
