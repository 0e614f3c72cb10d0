"""The publications of a group: `pgflo_<group>`, and a second one for tables without an identity.

Upstream: the resolved tables. Downstream: the walsender, which is started with both names.
Invariant: publications exist before the slot does, and cover every table of the group whenever a
walsender is started; a table that joins is added, none is ever taken out. (A newer server skips a
missing publication with a warning and drops what was written meanwhile, so this is checked on every
connect.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.source.patterns import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

    from pgflo.source.catalog import Published

ROW_FILTERS_SINCE = 150000
"""Row filters and column lists of publications came with PostgreSQL 15."""

_FLAGS = """
SELECT pubname, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot
FROM pg_catalog.pg_publication WHERE pubname = ANY (%s)
"""

_COVERED = """
SELECT c.oid::int8 FROM pg_catalog.pg_publication_tables t
JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
WHERE t.pubname = ANY (%s)
"""

_LISTED = """
SELECT n.nspname, c.relname FROM pg_catalog.pg_publication_rel r
JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = ANY (%s)
"""

_EXISTING = """
SELECT c.oid::int8 FROM pg_catalog.pg_class c
WHERE c.oid = ANY (%s::oid[]) AND c.relkind = 'r' AND c.relpersistence = 'p'
"""

_NARROWED = """
SELECT prrelid::regclass::text FROM pg_catalog.pg_publication_rel r
JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
WHERE p.pubname = ANY (%s) AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)
"""


def names_for(published: Iterable[Published], main: str, insert: str) -> list[str]:
    """Give the names of the publications that these tables need; the main one always."""
    return [main, insert] if any(entry.insert_only for entry in published) else [main]


async def create(
    conn: psycopg.AsyncConnection[Any], published: Iterable[Published], main: str, insert: str
) -> list[str]:
    """Make the publications anew and give their names. No slot may depend on them."""
    entries = list(published)
    names = names_for(entries, main, insert)
    async with conn.transaction():
        await drop(conn, [main, insert])
        for name in names:
            insert_only = name == insert
            await conn.execute(
                _create_statement(
                    name,
                    [entry for entry in entries if entry.insert_only == insert_only],
                    "insert, truncate" if insert_only else "insert, update, delete, truncate",
                )
            )
    return names


async def covered(conn: psycopg.AsyncConnection[Any], names: list[str]) -> set[int]:
    """Give the OIDs of the tables that the publications cover, partitions one by one."""
    return {row[0] for row in await (await conn.execute(_COVERED, (names,))).fetchall()}


async def extend(
    conn: psycopg.AsyncConnection[Any], names: list[str], published: Iterable[Published]
) -> None:
    """Add what the publications do not list yet, all of it or nothing."""
    rows = await (await conn.execute(_LISTED, (names,))).fetchall()
    lacking = [entry for entry in published if (entry.schema, entry.name) not in rows]
    async with conn.transaction():
        for number, name in enumerate(names):
            entries = [entry for entry in lacking if entry.insert_only == (number > 0)]
            if entries:
                await conn.execute(
                    sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(
                        sql.Identifier(name), _table_list(entries)
                    )
                )


async def drop(conn: psycopg.AsyncConnection[Any], names: Iterable[str]) -> list[str]:
    """Drop those that exist and give their names."""
    found = await existing(conn, names)
    for name in found:
        await conn.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))
    return found


async def existing(conn: psycopg.AsyncConnection[Any], names: Iterable[str]) -> list[str]:
    """Give the names of those that exist."""
    cursor = await conn.execute(
        "SELECT pubname::text FROM pg_catalog.pg_publication WHERE pubname = ANY (%s) ORDER BY 1",
        (list(names),),
    )
    return [row[0] for row in await cursor.fetchall()]


async def check(
    conn: psycopg.AsyncConnection[Any], names: list[str], tables: dict[int, str]
) -> None:
    """Raise unless the publications still send every change of the tables (OID → name).

    A table that was dropped at the source is no mistake. Raises `PgfloError` of kind
    PUBLICATION_MISSING or PUBLICATION_CHANGED.
    """
    flags = {row[0]: row[1:] for row in await (await conn.execute(_FLAGS, (names,))).fetchall()}
    for number, name in enumerate(names):
        if name not in flags:
            raise PgfloError(errors.PUBLICATION_MISSING, f"publication {quote(name)} is gone")
        inserts, updates, deletes, truncates, via_root = flags[name]
        whole = inserts and truncates and (number > 0 or (updates and deletes)) and not via_root
        if not whole:
            raise PgfloError(
                errors.PUBLICATION_CHANGED,
                f"publication {quote(name)} was altered: it no longer sends every change",
            )
    oids = list(tables)
    there = {row[0] for row in await (await conn.execute(_EXISTING, (oids,))).fetchall()}
    if lacking := sorted(tables[oid] for oid in there - await covered(conn, names)):
        raise PgfloError(
            errors.PUBLICATION_CHANGED,
            f"publication {quote(names[0])} no longer covers {', '.join(lacking)}",
        )
    if conn.info.server_version >= ROW_FILTERS_SINCE:
        narrowed = await (await conn.execute(_NARROWED, (names,))).fetchall()
        if narrowed:
            raise PgfloError(
                errors.PUBLICATION_CHANGED,
                f"publication {quote(names[0])} got a row filter or a column list for "
                f"{', '.join(row[0] for row in narrowed)}",
            )


def _create_statement(name: str, entries: list[Published], publish: str) -> sql.Composed:
    statement = sql.SQL("CREATE PUBLICATION {}").format(sql.Identifier(name))
    if entries:
        statement += sql.SQL(" FOR TABLE ") + _table_list(entries)
    return statement + sql.SQL(" WITH (publish = {}, publish_via_partition_root = false)").format(
        sql.Literal(publish)
    )


def _table_list(entries: list[Published]) -> sql.Composed:
    # ONLY: inheritance children are tables of their own; it has no meaning for partitioned ones.
    return sql.SQL(", ").join(
        sql.SQL("{}{}").format(
            sql.SQL("" if entry.partitioned else "ONLY "),
            sql.Identifier(entry.schema, entry.name),
        )
        for entry in entries
    )
