"""The account that PostgreSQL runs under, and the directories which that account reaches.

Upstream: `postgres.py`, `template.py`, the fixtures. PostgreSQL refuses to run as root, and root is
the usual user of a container, so root starts it as `nobody`.
Invariant: nobody's permissions change on anything that was there before, and root never writes
through a path which that account controls: what root writes stands in directories that root owns.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pgflo.errors import DIRECTORY_REFUSED, SERVER_START, PgfloError

UNPRIVILEGED_USER = "nobody"
COPY_SUFFIX_BYTES = 6
CACHE_KEPT_S = 14 * 86_400
"""What nobody has used for two weeks leaves the cache: 40 MB a template, 60 MB an installation."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who a server runs as. `switched`: not the caller, so it reaches only what others may."""

    uid: int
    gid: int
    switched: bool

    def may(self, want: int, found: os.stat_result) -> bool:
        """Whether the mode bits grant `want` (a sum of 4 read, 2 write, 1 search)."""
        if not self.switched:
            return True  # the kernel knows better, and tells at the first use
        if found.st_uid == self.uid:
            return (found.st_mode >> 6) & want == want
        if found.st_gid == self.gid:
            return (found.st_mode >> 3) & want == want
        return found.st_mode & want == want

    def reaches(self, path: Path) -> bool:
        """Whether every parent of an absolute, resolved path may be searched."""
        return all(self.may(1, parent.stat()) for parent in path.parents)

    def let_in(self, path: Path) -> None:
        """Let the account search a directory that this process has made and goes on owning."""
        path.chmod(0o711 if self.switched else 0o700)

    def give(self, path: Path) -> None:
        """Hand over a file or an empty directory that this process has just made."""
        if self.switched:
            os.chown(path, self.uid, self.gid)


def server_account() -> Account:
    """Return the caller's own account, or for root the unprivileged one."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switched=False)
    try:
        entry = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError as error:
        raise PgfloError(
            SERVER_START,
            f"PostgreSQL refuses to run as root, and there is no user {UNPRIVILEGED_USER!r}",
            hint="Run pgflo as an ordinary user, or add that user.",
        ) from error
    return Account(entry.pw_uid, entry.pw_gid, switched=True)


def claim_directory(directory: Path, account: Account, *, kind: str) -> Path:
    """Make a server's directory, or take an empty one or one of the same kind from before.

    Returns the resolved path. Raises `PgfloError` when something else is in it or the account
    cannot get there.
    """
    resolved = directory.resolve()
    mark = resolved / f".pgflo-{kind}"
    if resolved.exists() and not mark.exists() and any(resolved.iterdir()):
        raise PgfloError(
            DIRECTORY_REFUSED, f"{resolved} is neither empty nor an embedded {kind} server's"
        )
    missing = [path for path in (resolved, *resolved.parents) if not path.exists()]
    first_made = missing[-1] if missing else resolved
    if not account.reaches(first_made):
        raise PgfloError(
            DIRECTORY_REFUSED,
            f"the user {UNPRIVILEGED_USER!r}, under which root starts PostgreSQL, cannot search "
            f"the parents of {first_made}",
        )
    for path in reversed(missing):
        path.mkdir(mode=0o700)
        account.let_in(path)
    account.let_in(resolved)
    mark.touch()
    return resolved


def throw_away_directory(prefix: str = "pgflo-") -> Path:
    """Make an empty directory with an unguessable name that embedded servers can run in.

    TMPDIR is taken where the server's account reaches it, else /tmp or /var/tmp.
    """
    account = server_account()
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=_reachable_base(account)))
    account.let_in(path)
    return path


def cache_directory() -> Path | None:
    """Return this user's directory of templates, made when it is not there.

    None when something stands there that somebody else could change: then nothing is cached.
    """
    account = server_account()
    path = _reachable_base(account) / f"pgflo-embedded-{os.geteuid()}"
    try:
        path.mkdir(mode=0o755 if account.switched else 0o700)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o22:
            return None
    if account.switched:
        path.chmod(0o755)
    return path


def keep_copy(base: Path, trees: list[Path], name: str, *, cache: Path) -> Path:
    """Copy trees below `base` into `cache/name` and return where that is. Whoever is first wins.

    It appears by a rename: complete or not at all. For root everything in it may be read by others,
    so no secret belongs into it.
    """
    _prune(cache)
    final = cache / name
    building = cache / f".{name}.{secrets.token_hex(COPY_SUFFIX_BYTES)}"
    try:
        for tree in trees:
            shutil.copytree(base / tree, building / tree, symlinks=True, dirs_exist_ok=True)
        if os.geteuid() == 0:
            let_others_read(building)
        building.rename(final)
    except OSError:
        if not final.is_dir():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return final


def mark_used(entry: Path) -> None:
    """Note that something in the cache is in use, for otherwise it leaves some day."""
    os.utime(entry)


def let_others_read(tree: Path) -> None:
    """Open a tree that this process has made for reading, which holds no secret."""
    for folder, _, files in os.walk(tree):
        here = Path(folder)
        here.chmod(0o755)
        for file in map(here.joinpath, files):
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)


def _prune(cache: Path) -> None:
    """Remove what was not used for long, the remains of interrupted copies included."""
    oldest_s = time.time() - CACHE_KEPT_S
    for entry in cache.iterdir():
        if entry.lstat().st_mtime < oldest_s:
            shutil.rmtree(entry, ignore_errors=True)


def _reachable_base(account: Account) -> Path:
    for base in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp below
        resolved = base.resolve()
        if resolved.is_dir() and account.reaches(resolved / "below"):
            return resolved
    raise PgfloError(
        DIRECTORY_REFUSED,
        f"neither TMPDIR nor /tmp nor /var/tmp can be searched by {UNPRIVILEGED_USER!r}",
    )
