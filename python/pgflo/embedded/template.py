"""A fresh PostgreSQL data directory: by initdb the first time (0.7 s), then by copies (0.1 s).

Upstream: `postgres.py`. Downstream: initdb and cp, run as the server's account under its lifeline.
Invariant: every data directory has a system identifier of its own, as if initdb had made it. A
plain copy would carry the template's, and two servers with one name cannot be told apart by anybody
who checks whether it is still the same server that answers.

The identifier stands in two places: the first 8 bytes of `global/pg_control` (which ends its struct
with a CRC-32C), and the first page header of each WAL segment. Where either is not found as
expected the template is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgflo.embedded.account import Account, cache_directory, keep_copy, let_others_read, mark_used
from pgflo.embedded.lifeline import Launch, Lifeline
from pgflo.errors import SERVER_START, PgfloError

if TYPE_CHECKING:
    from pgflo.embedded.binaries import Found

SUPERUSER = "postgres"
LOCALES = ("C.UTF-8", "C")
"""Tried in this order: not every C library has the first."""
INITDB_TIMEOUT_S = 120.0
PG_CONTROL = Path("global/pg_control")
WAL_SYSTEM_ID_AT = 24
"""Offset in a segment: after the short page header (24 bytes with padding)."""
CRC_SEARCH = range(200, 512, 4)
"""Offsets in pg_control at which some version may keep its checksum; the right one verifies."""
CRC32C_POLYNOMIAL = 0x82F63B78
MANIFEST = "pgflo-template.json"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a data directory is made of. `directory` is the caller's, `data` the account's."""

    binaries: Found
    account: Account
    directory: Path
    env: dict[str, str]
    log: Path
    password: str | None

    @property
    def data(self) -> Path:
        """The data directory to fill."""
        return self.directory / "data"

    def launch(self, *argv: str | Path) -> Launch:
        """Describe a program that runs as the account and may be killed at any time."""
        return Launch(
            argv=[str(part) for part in argv],
            cwd=self.directory,
            log=self.log,
            env=self.env,
            user=self.account.uid if self.account.switched else None,
            group=self.account.gid if self.account.switched else None,
            ladder=((signal.SIGKILL, 5.0),),
        )


def create_cluster(cluster: Cluster, lifeline: Lifeline, *, use_cache: bool) -> None:
    """Fill `cluster.data`. With a password there is no template, so that none is ever cached."""
    shutil.rmtree(cluster.data, ignore_errors=True)  # left by a start that was interrupted
    cluster.data.mkdir(mode=0o700)
    cluster.account.give(cluster.data)
    cache = cache_directory() if use_cache and cluster.password is None else None
    if cache is None:
        _initdb(cluster, lifeline)
        return
    name = _cache_key(cluster.binaries)
    template = cache / name
    if (template / MANIFEST).exists() and not _is_whole(template):
        _discard(template)
    if not template.is_dir():
        _initdb(cluster, lifeline)
        _keep(cluster.data, cache, name)
        return
    mark_used(template)
    if not _clone(cluster, lifeline, template):
        _discard(template)
        create_cluster(cluster, lifeline, use_cache=False)


def _initdb(cluster: Cluster, lifeline: Lifeline) -> None:
    argv: list[str | Path] = [
        cluster.binaries.path / "initdb",
        f"--pgdata={cluster.data}",
        f"--username={SUPERUSER}",
        "--encoding=UTF8",
        "--no-sync",
        "--no-instructions",
    ]
    secret = cluster.directory / "password"
    if cluster.password is None:
        argv.append("--auth=trust")
    else:
        argv += ["--auth=scram-sha-256", f"--pwfile={secret}"]
        _write_secret(secret, cluster.password, cluster.account)
    try:
        for locale in LOCALES:
            launch = cluster.launch(*argv, f"--locale={locale}")
            code = lifeline.run_to_end(launch, INITDB_TIMEOUT_S)
            if code == 0:
                return
    finally:
        secret.unlink(missing_ok=True)
    raise PgfloError(
        SERVER_START, f"initdb of {cluster.binaries.path} failed ({code}), see {cluster.log}"
    )


def _write_secret(path: Path, password: str, account: Account) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password + "\n")
    account.give(path)


def _cache_key(binaries: Found) -> str:
    program = binaries.path / "postgres"
    parts = (str(program), binaries.version_text, str(program.stat().st_mtime_ns), *LOCALES)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return f"data-{binaries.version[0]}-{digest}"


def _keep(data: Path, cache: Path, name: str) -> None:
    """Put a copy of a new data directory into the cache; the start goes on if it is full."""
    try:
        template = keep_copy(data, [Path()], name, cache=cache)
        building = template / f".{MANIFEST}.{secrets.token_hex(4)}"
        building.write_text(json.dumps(_measure(template)))
        if os.geteuid() == 0:
            building.chmod(0o644)
        building.rename(template / MANIFEST)
    except OSError:
        _discard(cache / name)


def _measure(template: Path) -> list[int]:
    """Return number and bytes of a template's files, the manifest aside."""
    sizes = [
        (Path(folder) / file).lstat().st_size
        for folder, _, files in os.walk(template)
        for file in files
        if MANIFEST not in file
    ]
    return [len(sizes), sum(sizes)]


def _is_whole(template: Path) -> bool:
    """Whether nothing (a cleaner of /tmp, say) has taken files away since it was kept."""
    return bool(json.loads((template / MANIFEST).read_text()) == _measure(template))


def _discard(template: Path) -> None:
    aside = template.with_name(f".gone.{secrets.token_hex(6)}")
    try:
        template.rename(aside)
    except OSError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def _clone(cluster: Cluster, lifeline: Lifeline, template: Path) -> bool:
    """Copy a template as the account and give the copy an identifier of its own."""
    changed = cluster.directory / "own-identity"
    shutil.rmtree(changed, ignore_errors=True)
    try:
        if not _write_identity(template, changed):
            return False
        let_others_read(changed)  # the account copies it from there
        for tree in (template, changed):
            copy = cluster.launch("/bin/cp", "-R", f"{tree}/.", cluster.data)
            if lifeline.run_to_end(copy, INITDB_TIMEOUT_S) != 0:
                return False
    finally:
        shutil.rmtree(changed, ignore_errors=True)
    return True


def _write_identity(template: Path, target: Path) -> bool:
    """Write those of the template's files that hold the identifier, with a new one."""
    control = (template / PG_CONTROL).read_bytes()
    old = control[:8]
    new = _new_system_identifier()
    crc_at = _checksum_offset(control)
    segments = sorted((template / "pg_wal").glob("[0-9A-F]" * 24))
    if crc_at is None or not segments:
        return False
    patched = new + control[8:crc_at]
    patched += struct.pack("=I", crc32c(patched)) + control[crc_at + 4 :]
    files = {PG_CONTROL: patched}
    for segment in segments:
        wal = segment.read_bytes()
        if wal[WAL_SYSTEM_ID_AT : WAL_SYSTEM_ID_AT + 8] != old:
            return False
        files[Path("pg_wal") / segment.name] = (
            wal[:WAL_SYSTEM_ID_AT] + new + wal[WAL_SYSTEM_ID_AT + 8 :]
        )
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return True


def _new_system_identifier() -> bytes:
    """Make one as initdb does: seconds, then chance where that has microseconds and pid."""
    return struct.pack("=Q", (int(time.time()) << 32) | secrets.randbits(32))


def _checksum_offset(control: bytes) -> int | None:
    """Find where pg_control keeps the CRC-32C of what stands before it."""
    crc = crc32c(control[: CRC_SEARCH.start])
    for at in CRC_SEARCH:
        if struct.pack("=I", crc) == control[at : at + 4]:
            return at
        crc = crc32c(control[at : at + CRC_SEARCH.step], crc)
    return None


def crc32c(data: bytes, crc: int = 0) -> int:
    """Return the CRC-32C (Castagnoli) of a few hundred bytes that follow those `crc` is of."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (CRC32C_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
