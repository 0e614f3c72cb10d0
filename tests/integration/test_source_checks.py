"""What is checked on every connect: slot, publication, system. And what `drop` removes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from tests.fix_replicator import until

from pgflo import errors
from pgflo.errors import Kind, PgfloError
from pgflo.source.drop import drop_group, list_group

if TYPE_CHECKING:
    from typing import LiteralString

    from tests.fix_replicator import Replicator


@pytest.fixture
async def made(replicator: Replicator) -> Replicator:
    """Give a group that was made and ended."""
    replicator.source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await replicator.run(once=True)
    return replicator


async def refusal(replicator: Replicator) -> PgfloError:
    """Start again and give the error."""
    with pytest.raises(PgfloError) as told:
        await replicator.run(once=True)
    assert int(told.value.exit_code) == 4
    assert "pgflo replicate --restart" in told.value.hint
    return told.value


async def test_a_slot_that_is_gone_is_never_made_again_silently(made: Replicator) -> None:
    made.source.rows("SELECT pg_drop_replication_slot(%s)", [made.names_at_source.slot])
    assert (await refusal(made)).kind is errors.SLOT_MISSING


async def test_a_slot_that_somebody_advanced_is_noticed(made: Replicator) -> None:
    made.source.execute("INSERT INTO t VALUES (1)")
    made.source.rows(
        "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [made.names_at_source.slot]
    )
    error = await refusal(made)
    assert error.kind is errors.SLOT_AHEAD


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("DROP PUBLICATION {}", errors.PUBLICATION_MISSING),
        ("ALTER PUBLICATION {} DROP TABLE t", errors.PUBLICATION_CHANGED),
        ("ALTER PUBLICATION {} SET (publish = 'insert')", errors.PUBLICATION_CHANGED),
        ("ALTER PUBLICATION {} SET TABLE t WHERE (id > 5)", errors.PUBLICATION_CHANGED),
        (
            "ALTER PUBLICATION {} SET (publish_via_partition_root = true)",
            errors.PUBLICATION_CHANGED,
        ),
    ],
)
async def test_a_publication_that_no_longer_sends_everything_is_noticed(
    made: Replicator, change: LiteralString, kind: Kind
) -> None:
    name = sql.Identifier(made.names_at_source.publication)
    made.source.execute(sql.SQL(change).format(name))
    assert (await refusal(made)).kind is kind


async def test_a_table_dropped_at_the_source_is_no_mistake(made: Replicator) -> None:
    made.source.execute("CREATE TABLE other (id int PRIMARY KEY)", "DROP TABLE t")
    await made.run(once=True)


async def test_a_restored_copy_of_the_source_is_another_system(
    made: Replicator,
) -> None:
    record = await made.record()
    assert record is not None
    await made.change_record(system_id="7000000000000000000")
    error = await refusal(made)
    assert error.kind is errors.SOURCE_OTHER_SYSTEM


async def test_a_slot_read_by_a_dead_connection_of_ours_is_taken_over(made: Replicator) -> None:
    # GIVEN a killed replicator whose walsender may not know yet
    process = made.spawn()
    active = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s"
    await until(lambda: made.source.value(active, [made.names_at_source.slot]), "slot in use")
    process.kill()
    process.wait()
    made.source.execute("INSERT INTO t VALUES (1)")
    # WHEN it is started again at once THEN it streams
    await made.run(once=True)
    assert (await made.read_back()).inserted() == [1]


async def test_drop_removes_what_the_group_has_and_nothing_else(made: Replicator) -> None:
    source = made.source
    source.execute("CREATE PUBLICATION pgflo_other FOR TABLE t")
    expected = [
        f"slot {made.names_at_source.slot}",
        f"publication {made.names_at_source.publication}",
    ]
    assert await list_group(source.dsn, made.group) == expected
    assert await drop_group(source.dsn, made.group) == expected
    assert await drop_group(source.dsn, made.group) == []
    assert source.rows("SELECT pubname FROM pg_publication") == [("pgflo_other",)]
