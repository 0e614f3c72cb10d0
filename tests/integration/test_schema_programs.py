"""pg_dump is found in the right version, and is told no secret where others see it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.schema.programs import find_programs
from pgflo.schema.sync import Wanted, sync_before_rows
from pgflo.sinks.postgres.connection import Destination

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fix_postgres import Database

TOLD = """#!/bin/sh
echo "$0 $@" >> {log}
exec {program} "$@"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name a directory for pg_dump and pg_restore, empty as yet."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PG_FLO_PG_BIN", str(directory))
    return directory


def write_program(path: Path, text: str) -> None:
    """Make an executable script."""
    path.write_text(text)
    path.chmod(0o755)


def test_a_version_that_no_program_has_is_an_error_with_the_way_to_get_it(programs: Path) -> None:
    with pytest.raises(
        PgfloError, match=r"no pg_dump and pg_restore in .*PG_FLO_PG_BIN"
    ) as missing:
        find_programs(15)
    assert missing.value.kind is errors.BINARY_MISSING
    for name in ("pg_dump", "pg_restore"):
        write_program(programs / name, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 13.22 (Debian)'\n")
    with pytest.raises(PgfloError, match="PostgreSQL 15 or later is needed; there is 13") as old:
        find_programs(15)
    assert old.value.kind is errors.BINARY_TOO_OLD
    assert "apt-get install postgresql-client-15" in old.value.hint
    assert find_programs(13).major == 13


def test_the_oldest_program_that_is_new_enough_is_taken() -> None:
    majors = [find_programs(14).major, find_programs(18).major]
    assert majors == sorted(majors)
    assert majors[1] >= 18


async def test_passwords_are_in_no_argument_and_no_error(
    source: Database, target: Database, programs: Path, tmp_path: Path
) -> None:
    # GIVEN programs that write down what they are told
    log = tmp_path / "told"
    for name in ("pg_dump", "pg_restore"):
        real = source.bin_dir / name
        write_program(programs / name, TOLD.format(log=log, program=real))
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    oid = source.value("SELECT 't'::regclass::oid::int8")
    to = Destination(f"{target.dsn}?password=target-secret", "g", "postgres", uuid.uuid4())
    dsn = f"{source.dsn}?password=source-secret"
    # WHEN the tables are brought
    await sync_before_rows(to, Wanted(dsn, uuid.uuid4(), {oid: ("public", "t")}))
    # THEN they were told everything but the passwords
    told = log.read_text()
    assert told.count("--format=custom") == 2
    assert "secret" not in told
    assert target.value("SELECT count(*) FROM t") == 0
    # AND what cannot be told in another way is refused
    secret = Wanted(f"{dsn}&sslpassword=key-secret", uuid.uuid4(), {oid: ("public", "t")})
    with pytest.raises(PgfloError, match="sslpassword of the source") as refused:
        await sync_before_rows(to, secret)
    assert "key-secret" not in str(refused.value)


async def test_what_pg_dump_may_not_read_is_told_in_its_words(
    source: Database, target: Database, programs: Path
) -> None:
    write_program(programs / "pg_restore", "#!/bin/sh\n")
    script = (
        '#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 99.1" && exit\n'
        "echo 'pg_dump: error: permission denied for table t' >&2\nexit 1\n"
    )
    write_program(programs / "pg_dump", script)
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    oid = source.value("SELECT 't'::regclass::oid::int8")
    to = Destination(target.dsn, "g", "postgres", uuid.uuid4())
    with pytest.raises(PgfloError, match="ended with 1: pg_dump: error: permission denied") as told:
        await sync_before_rows(to, Wanted(source.dsn, uuid.uuid4(), {oid: ("public", "t")}))
    assert told.value.kind is errors.SCHEMA_SOURCE
