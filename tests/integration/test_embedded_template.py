"""Data directories come from a cached template, and are nevertheless like those of initdb."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from pgflo.embedded import EmbeddedPostgres, throw_away_directory
from pgflo.embedded.account import keep_copy
from pgflo.embedded.template import crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"
INITDB_SAYS = "The files belonging to this database system will be owned"


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a temporary directory of our own, with a cache that is empty at first."""
    path = throw_away_directory("pgflo-test-")
    path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield path
    shutil.rmtree(path)


def start(base: Path, name: str, password: str | None = None) -> tuple[str, bool]:
    """Start and stop a server; return its system identifier, and whether initdb made its data."""
    with EmbeddedPostgres(base / name, password=password) as server:
        with psycopg.connect(server.dsn()) as connection:
            row = connection.execute(SYSTEM).fetchone()
        assert row is not None
        return row[0], INITDB_SAYS in server.log_path.read_text()


def template(base: Path) -> Path:
    (found,) = base.glob("pgflo-embedded-*/data-*")
    return found


def test_the_second_data_directory_is_a_copy_with_an_identity_of_its_own(base: Path) -> None:
    first, by_initdb = start(base, "first")
    assert by_initdb
    others = [start(base, name) for name in ("second", "third")]
    assert [made_by_initdb for _, made_by_initdb in others] == [False, False]
    assert len({first, *(identity for identity, _ in others)}) == 3


def test_postgres_itself_finds_nothing_wrong_with_a_copy(base: Path) -> None:
    start(base, "first")
    identity, by_initdb = start(base, "second")
    assert not by_initdb
    with EmbeddedPostgres(base / "second") as server:
        bin_dir, data = server.binaries.path, server.data
    control = subprocess.run(
        [bin_dir / "pg_controldata", data], capture_output=True, text=True, check=True
    )
    assert "WARNING" not in control.stdout + control.stderr
    assert f"Database system identifier:           {identity}" in control.stdout
    wal = subprocess.run(
        [bin_dir / "pg_waldump", "--quiet", *sorted((data / "pg_wal").glob("0*"))[:1]],
        capture_output=True,
        text=True,
        check=False,
    )
    # It reads to the end of what was written, whatever it finds there.
    assert "system identifier" not in wal.stderr


@pytest.mark.parametrize("damage", ["a file is gone", "a file is short", "no identity is found"])
def test_a_damaged_template_is_not_used_and_made_anew(base: Path, damage: str) -> None:
    start(base, "first")
    if damage == "a file is gone":
        next(template(base).glob("base/1/[0-9]*")).unlink()
    elif damage == "a file is short":
        template(base).joinpath("PG_VERSION").write_text("")
    else:
        control = template(base) / "global" / "pg_control"
        control.write_bytes(bytes(len(control.read_bytes())))
    assert start(base, "second")[1]
    assert list(base.glob("pgflo-embedded-*/.*")) == []
    if damage != "no identity is found":  # that one is left to the start after next
        assert not start(base, "third")[1]


def test_with_a_password_there_is_no_template(base: Path) -> None:
    start(base, "first", password="secret")
    assert list(base.glob("pgflo-embedded-*/data-*")) == []


def test_a_cache_that_somebody_else_could_change_is_not_used(base: Path) -> None:
    start(base, "first")
    template(base).parent.chmod(0o777)
    assert start(base, "second")[1]


def test_what_was_not_used_for_two_weeks_leaves_the_cache(base: Path) -> None:
    start(base, "first")
    current = template(base)
    outdated, recent = current.with_name("data-9-old"), current.with_name("install-recent")
    for entry in (outdated, recent):
        (entry / "base").mkdir(parents=True)
    long_ago = time.time() - 15 * 86_400
    for entry in (outdated, current):
        os.utime(entry, (long_ago, long_ago))
    start(base, "second")  # uses the current one, and so keeps it
    keep_copy(recent, [Path("base")], "install-new", cache=current.parent)
    assert sorted(path.name for path in current.parent.iterdir()) == [
        current.name,
        "install-new",
        "install-recent",
    ]


def test_many_at_once_make_one_template_and_all_start(base: Path) -> None:
    made: list[tuple[str, bool]] = []
    threads = [
        threading.Thread(target=lambda n=number: made.append(start(base, f"server-{n}")))
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({identity for identity, _ in made}) == 3
    assert [path.name for path in template(base).parent.iterdir()] == [template(base).name]
    assert not start(base, "after")[1]


def test_the_checksum_is_castagnoli_s() -> None:
    # The check value of the catalogue of CRC algorithms, whole and in two parts.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283
