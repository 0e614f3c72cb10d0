"""What the tests of several shards ask a destination: rows, assignment, and a lock that holds one.

Neighbours: `fix_stream` and `fix_pipeline` run the workers. Downstream: tests of shards.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_postgres import Database

Position = tuple[int, int]


def shard_positions(target: Database) -> list[Position]:
    """Return where each shard's row stands, in the order of shards."""
    found = target.rows(
        "SELECT (commit_lsn - '0/0')::bigint, ordinal FROM pgflo.progress ORDER BY shard"
    )
    return [(int(lsn), int(ordinal)) for lsn, ordinal in found]


def assigned(target: Database) -> dict[str, list[str] | int]:
    """Return by table's name the columns of the key it is spread by, or its shard."""
    tables = target.value("SELECT tables FROM pgflo.assignment")
    return {
        route["name"]: [name for name, _, _ in route["key"]] or route["shard"]
        for route in tables.values()
    }


@contextlib.contextmanager
def held(target: Database, table: str, key: int) -> Iterator[None]:
    """Lock one row, so that the shard it belongs to cannot go on when it is changed."""
    with target.connect() as conn:
        conn.execute("BEGIN")
        query = sql.SQL("SELECT FROM {} WHERE id = %s FOR UPDATE")
        assert conn.execute(query.format(sql.Identifier(table)), (key,)).rowcount == 1
        yield


def some_shard_waits(target: Database) -> bool:
    """Whether a writer waits for a lock."""
    return bool(
        target.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name ~ ' shard[0-9]+ ' AND wait_event_type = 'Lock'"
        )
    )
