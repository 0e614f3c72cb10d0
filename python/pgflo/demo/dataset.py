"""The data of the demo: a million rows in five tables, and the Chinook data set.

Upstream: `tables.sql` and `chinook.sql` beside this file. Downstream: the demo's source server.
Invariant: the destination gets nothing but by pgflo.
"""

from __future__ import annotations

import re
from importlib import resources

import psycopg

ROWS = 1_000_000
"""Rows of the five tables; Chinook's come on top."""
TABLES = "public.*,chinook.*"

DATABASE_LINES = re.compile(rb"^(?:DROP|CREATE) DATABASE\b[^;]*;|^\\c [^\n]*", re.MULTILINE)
"""Chinook makes a database of its own; here it gets a schema."""


def fill(dsn: str) -> None:
    """Create and fill the tables. Takes some seconds: the rows are made by the server."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        # The rows can be made again; no need to wait for the disk.
        conn.execute("SET synchronous_commit = off")
        conn.execute(_text("tables.sql"))
        conn.execute("CREATE SCHEMA chinook")
        conn.execute("SET search_path = chinook")
        conn.execute(DATABASE_LINES.sub(b"", _text("chinook.sql")))


def _text(name: str) -> bytes:
    return resources.files("pgflo.demo").joinpath(name).read_bytes()
