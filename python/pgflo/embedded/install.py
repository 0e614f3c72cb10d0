"""PostgreSQL's program files at a place where the server's account can read them.

Upstream: `postgres.py`. A wheel in root's own virtual environment cannot be read by `nobody`; then
the installation is copied once (0.3 s) into the cache of templates, with the directory of libraries
(`<package>.libs`) that stands beside the package. Everything else is used where it stands.
Invariant: no permission of the original changes.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pgflo.embedded.account import cache_directory, keep_copy, mark_used
from pgflo.errors import DIRECTORY_REFUSED, PgfloError

if TYPE_CHECKING:
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
    package = found.path.parent.parent
    program = found.path / "postgres"
    parts = (str(program), found.version_text, str(program.stat().st_mtime_ns))
    name = "install-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    copy = cache / name
    # Below one directory, for the programs look for their libraries relative to themselves.
    trees = [found.path.parent.relative_to(package.parent), Path(f"{package.name}.libs")]
    trees = [tree for tree in trees if (package.parent / tree).is_dir()]
    if not all(_is_complete(copy / tree, package.parent / tree) for tree in trees):
        shutil.rmtree(copy, ignore_errors=True)
        keep_copy(package.parent, trees, name, cache=cache)
    mark_used(copy)
    return replace(found, path=copy / found.path.relative_to(package.parent))


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
