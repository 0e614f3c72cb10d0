"""`--target-sync-schema` before the rows: from the source's catalog to tables at the destination.

Upstream: the worker, when it takes the sink over. Downstream: `needs`, `dump`, `choice`, `plan`,
`ledger`, `build`.
Invariant: the source is asked once for each incarnation, and again when tables join the group. From
then on the plan at the destination says what is left, whatever becomes of the source or of this
process.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import structlog

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.schema import build, ledger
from pgflo.schema.choice import choose
from pgflo.schema.dump import Server, dump
from pgflo.schema.needs import RELATIONS, of_source, patterns
from pgflo.schema.plan import make_plan
from pgflo.schema.programs import find_programs
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.connection import failure
from pgflo.source.connection import connect
from pgflo.source.connection import failure as source_failure

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping

    from psycopg.rows import TupleRow

    from pgflo.schema.archive import Entry
    from pgflo.schema.needs import Needs
    from pgflo.schema.plan import Part
    from pgflo.sinks.postgres.connection import Destination

log = structlog.get_logger("pgflo.schema")

T = TypeVar("T")

VERSIONS_A_MAJOR = 10_000

TABLES = """
SELECT c.oid::int8, n.nspname, c.relname
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%s::oid[])
"""


@dataclass(frozen=True, slots=True)
class There:
    """What the destination is."""

    version: int
    unfinished: frozenset[str]
    """Parts that a former plan has left."""
    relations: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the sink is to have: tables of the source with their schemas and names."""

    source: str = field(repr=False)
    """Connection string."""
    incarnation: uuid.UUID
    tables: Mapping[int, tuple[str, str]]
    """By OID."""


async def sync_before_rows(to: Destination, wanted: Wanted) -> None:
    """Make the group's tables and what they need, as far as they are not there.

    Raises `PgfloError`: SCHEMA_DIFFERS before anything is made; SCHEMA_REFUSED, SCHEMA_PRIVILEGE;
    SCHEMA_OTHER_SOURCE; and the failures of both servers.
    """

    def look(conn: psycopg.Connection[TupleRow]) -> frozenset[int] | None:
        progress.create_schema(conn)
        return ledger.planned_tables(conn, to, wanted.incarnation)

    def store(conn: psycopg.Connection[TupleRow]) -> None:
        tables = (planned or frozenset()).union(wanted.tables)
        ledger.store(conn, to, wanted.incarnation, planned, tables, parts)

    planned = await asyncio.to_thread(_ask, to, "cannot look for the plan of the schema", look)
    if planned is None or not planned.issuperset(wanted.tables):
        parts = await _plan(to, wanted, planned or frozenset())
        await asyncio.to_thread(_ask, to, "cannot store the plan of the schema", store)
    await build.before_rows(to)


async def _plan(to: Destination, wanted: Wanted, planned: frozenset[int]) -> list[Part]:
    """Plan for the wanted tables; what those planned before need is not looked at again."""
    source = Server(wanted.source, "source", errors.SCHEMA_SOURCE)
    target = Server(to.conninfo, "destination", errors.SCHEMA_TARGET)
    there = await asyncio.to_thread(_ask, to, "cannot look at the destination", partial(_look, to))
    async with await connect(wanted.source, purpose="pgflo schema") as conn, conn.transaction():
        try:
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await _check_tables(conn, wanted)
            needs = await of_source(conn, list(wanted.tables))
            before = await of_source(conn, list(planned))
            row = await (await conn.execute("SELECT pg_catalog.pg_export_snapshot()")).fetchone()
        except psycopg.Error as error:
            raise source_failure(error, "reading what the tables need") from None
        newest = max(conn.info.server_version, there.version) // VERSIONS_A_MAJOR
        programs = find_programs(newest)
        snapshot = row[0] if row else None
        archive = await dump(programs, source, needs.excluded, snapshot)
    entries = choose(archive, needs.objects, needs.left_out)
    settled = {entry.id for entry in choose(archive, before.objects, before.left_out)}
    _tell(archive, needs)
    others = patterns(name for name in there.relations if name not in needs.names)
    present = await dump(programs, target, others)
    parts = make_plan(entries, present.values(), there.unfinished, settled)
    log.info(
        "schema of the source read",
        objects=len(entries),
        to_be_made=len(parts),
        programs=str(programs.directory),
    )
    return parts


async def _check_tables(conn: psycopg.AsyncConnection[Any], wanted: Wanted) -> None:
    """Raise SCHEMA_OTHER_SOURCE unless the database has the group's tables."""
    rows = await (await conn.execute(TABLES, (list(wanted.tables),))).fetchall()
    found = {oid: (schema, name) for oid, schema, name in rows}
    lacking = [
        f"{schema}.{name}"
        for oid, (schema, name) in wanted.tables.items()
        if found.get(oid) != (schema, name)
    ]
    if lacking:
        raise PgfloError(
            errors.SCHEMA_OTHER_SOURCE,
            f"database {conn.info.dbname} has not the group's table {', '.join(lacking)}",
        )


def _tell(archive: Mapping[int, Entry], needs: Needs) -> None:
    labels = {(entry.class_oid, entry.oid): entry.label for entry in archive.values()}
    for place, reason in needs.left_out.items():
        if place in labels:
            log.warning(
                "left out, since it refers to what is not of the group",
                part=labels[place],
                reason=reason,
            )


def _look(to: Destination, conn: psycopg.Connection[TupleRow]) -> There:
    relations = conn.execute(RELATIONS).fetchall()
    return There(
        conn.info.server_version,
        ledger.unfinished(conn, to),
        tuple((schema, name) for _, schema, name in relations),
    )


def _ask(
    to: Destination,
    doing: str,
    question: Callable[[psycopg.Connection[TupleRow]], T],
) -> T:
    with ledger.connect(to, "schema") as conn:
        try:
            return question(conn)
        except psycopg.Error as error:
            raise failure(error, doing) from None
