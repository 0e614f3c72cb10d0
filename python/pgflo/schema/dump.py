"""Runs pg_dump and pg_restore on one database and gives what they found.

Upstream: `sync`. Downstream: the programs, in processes that end with the task that waits for them.
Invariant: no password stands in arguments, and nothing of the archive stays on disk.

The archive has every object but the relations that are left out: their definitions, without rows,
owners, grants, tablespaces and access methods, which may mean nothing to another server.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.schema import archive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgflo.errors import Kind
    from pgflo.schema.archive import Entry
    from pgflo.schema.programs import Programs

LOCK_WAIT_MS = 60_000
"""How long pg_dump waits for a table that somebody is changing."""

MOST_WORDS = 600
"""Characters of what a program said that are told; the last ones."""

WITHOUT = (
    "--schema-only",
    "--no-publications",
    "--no-subscriptions",
    "--no-security-labels",
    "--encoding=UTF8",
    f"--lock-wait-timeout={LOCK_WAIT_MS}",
    "--no-password",
)


@dataclass(frozen=True, slots=True)
class Server:
    """A database, and how its failures are told."""

    conninfo: str = field(repr=False)
    which: str
    """`source` or `destination`."""
    kind: Kind


async def dump(
    programs: Programs, server: Server, excluded: Sequence[str], snapshot: str | None = None
) -> dict[int, Entry]:
    """Dump all but the relations that match a pattern of `excluded`.

    Raises `PgfloError`: the server's kind, CONFIG for a connection string that cannot be handed on,
    SCHEMA_UNREADABLE.
    """
    conninfo, environment = _handed_on(server)
    with tempfile.TemporaryDirectory(prefix="pgflo-schema-") as directory:
        file = str(Path(directory) / "archive")
        arguments = [programs.dump, "--format=custom", *WITHOUT, "--file", file]
        arguments += [f"--exclude-table={pattern}" for pattern in excluded]
        if snapshot is not None:
            arguments.append(f"--snapshot={snapshot}")
        await _run([*arguments, "--dbname", conninfo], environment, server)
        listing = await _run([programs.restore, "--list", file], environment, server)
        plain = ("--no-owner", "--no-privileges", "--no-tablespaces", "--verbose", "--file=-")
        script = await _run([programs.restore, *plain, file], environment, server)
    return archive.entries(listing, script)


def _handed_on(server: Server) -> tuple[str, dict[str, str]]:
    """Give the connection string without its secrets, and an environment with the password."""
    given = conninfo_to_dict(server.conninfo)
    environment = {**os.environ, "PGAPPNAME": "pgflo schema"}
    password = given.pop("password", None)
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    for option in psycopg.pq.Conninfo.get_defaults():
        name = option.keyword.decode()
        if option.dispchar == b"*" and name in given:
            raise PgfloError(
                errors.CONFIG,
                f"{name} of the {server.which} cannot be handed to pg_dump without showing it",
                hint="Put it into a service (pg_service.conf), and name that: `service=NAME`.",
            )
    return make_conninfo("", **given), environment


async def _run(arguments: list[str], environment: dict[str, str], server: Server) -> str:
    """Run a program and give what it printed; it is killed when the task is cancelled."""
    name = Path(arguments[0]).name
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        raise PgfloError(
            server.kind, f"{name} of the {server.which} cannot be started: {error.strerror}"
        ) from None
    try:
        printed, said = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        words = " ".join(said.decode(errors="replace").split())
        raise PgfloError(
            server.kind,
            f"{name} of the {server.which} ended with {process.returncode}: {words[-MOST_WORDS:]}",
        )
    try:
        return printed.decode()
    except UnicodeDecodeError:
        raise PgfloError(
            errors.SCHEMA_UNREADABLE,
            f"{name} of the {server.which} prints names or texts that are not in the database's"
            " encoding",
        ) from None
