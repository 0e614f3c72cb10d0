"""The data of the demo: a million rows in five tables, and the Chinook data set.

Upstream: `tables.sql` and `chinook.sql` beside this file. Downstream: the demo's source server,
and, by pg_dump, the destination's empty tables.
Invariant: the destination gets its tables before the copy begins, and nobody but pgflo writes rows
there.
"""

from __future__ import annotations

import os
import re
import subprocess
from importlib import resources
from typing import TYPE_CHECKING

import psycopg

from pgflo.errors import SERVER_START, PgfloError

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 1_000_000
"""Rows of the five tables; Chinook's come on top."""
CHINOOK_SCHEMA = "chinook"
TABLES = "public.*,chinook.*"

DATABASE_LINES = re.compile(rb"^(?:DROP|CREATE) DATABASE\b[^;]*;|^\\c [^\n]*", re.MULTILINE)
"""Chinook makes a database of its own; here it gets a schema."""
META_COMMANDS = re.compile(r"^\\[^\n]*\n", re.MULTILINE)
"""What newer releases of pg_dump write for psql alone."""


def fill(dsn: str) -> None:
    """Create and fill the tables. Takes some seconds: the rows are made by the server."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        # The rows can be made again; no need to wait for the disk.
        conn.execute("SET synchronous_commit = off")
        conn.execute(_text("tables.sql"))
        conn.execute("CREATE SCHEMA chinook")
        conn.execute("SET search_path = chinook")
        conn.execute(DATABASE_LINES.sub(b"", _text("chinook.sql")))


def copy_schema(bin_dir: Path, source: str, target: str) -> None:
    """Create the source's tables at the destination, as pg_dump tells them."""
    environment = {**os.environ, "PGOPTIONS": ""}
    dumped = subprocess.run(
        [str(bin_dir / "pg_dump"), "--schema-only", "--no-owner", "--dbname", source],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if dumped.returncode:
        raise PgfloError(
            SERVER_START,
            f"pg_dump of the demo's source ended with {dumped.returncode}: {dumped.stderr.strip()}",
        )
    with psycopg.connect(target, autocommit=True) as conn:
        conn.execute(META_COMMANDS.sub("", dumped.stdout).encode())


def _text(name: str) -> bytes:
    return resources.files("pgflo.demo").joinpath(name).read_bytes()
