"""PostgreSQL's program files at a place where the server's account can read them.

Upstream: `postgres.py`. A wheel in root's own virtual environment cannot be read by `nobody`; then
the whole installation is copied once (0.3 s) into the cache of templates. Everything else is used
where it stands. Invariant: no permission of the original changes.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

from pgflo.embedded.account import cache_directory, keep_copy
from pgflo.errors import DIRECTORY_REFUSED, PgfloError

if TYPE_CHECKING:
    from pathlib import Path

    from pgflo.embedded.account import Account
    from pgflo.embedded.binaries import Found

PROGRAMS = ("postgres", "initdb")


def readable_install(found: Found, account: Account) -> Found:
    """Return the installation itself, or a copy of it that the account can run."""
    if all(_runs(found.path / program, account) for program in PROGRAMS):
        return found
    cache = cache_directory()
    if cache is None:
        raise PgfloError(
            DIRECTORY_REFUSED,
            f"{found.path} cannot be read by the account PostgreSQL runs under, and somebody else "
            f"owns the directory below {tempfile.gettempdir()} to which it would be copied",
        )
    program = found.path / "postgres"
    parts = (str(program), found.version_text, str(program.stat().st_mtime_ns))
    name = "install-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    prefix = found.path.parent
    copy = cache / name
    if not _is_complete(copy, prefix):
        shutil.rmtree(copy, ignore_errors=True)
        keep_copy(prefix, name, cache=cache)
    return replace(found, path=copy / found.path.name)


def _runs(program: Path, account: Account) -> bool:
    resolved = program.resolve()
    return account.reaches(resolved) and account.may(5, resolved.stat())


def _is_complete(copy: Path, original: Path) -> bool:
    """Whether every file of the original is there in its size: /tmp has cleaners."""
    return copy.is_dir() and all(
        (twin := copy / file.relative_to(original)).is_file()
        and twin.stat().st_size == file.stat().st_size
        for file in original.rglob("*")
        if file.is_file()
    )
