"""What is told of a session that others wait for, and what is not."""

from __future__ import annotations

import pytest

from pgflo.sinks.postgres.lock_waits import Blocker, LockWait, StandbyWait, command


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("UPDATE accounts SET pin = '4711'", "UPDATE"),
        ("  select pg_sleep(1)", "SELECT"),
        ("/* pin 4711 */ -- pin 4711\nDELETE FROM t", "DELETE"),
        ("alter\n table t add column pin int default 4711", "ALTER TABLE"),
        ("ALTER ROLE app PASSWORD '4711'", "ALTER"),
        ("COMMIT;", "COMMIT"),
        ("'4711'", "unknown"),
        ("/* 4711", "unknown"),
        ("SELECTED4711", "unknown"),
        ("<insufficient privilege>", "unknown"),
        ("", "unknown"),
    ],
)
def test_of_a_query_only_its_command_is_told(query: str, told: str) -> None:
    assert command(query) == told


def test_a_blocker_is_told_with_what_an_operator_needs() -> None:
    seen = Blocker(7, "app", "shop", "idle in transaction", "UPDATE", 61.4)
    assert str(LockWait(1, 9.0, "public.t", (seen,))) == (
        "a lock on public.t, held by pid 7 of app (shop), idle in transaction for 61 s,"
        " last command UPDATE"
    )
    hidden = Blocker(8, "app", "", "", "unknown", None)
    prepared = Blocker(0, "", "", "", "unknown", None)
    assert str(LockWait(1, 9.0, "", (hidden, prepared))) == (
        "a lock, held by pid 8 of app, which only pg_read_all_stats may look at;"
        " a prepared transaction (pg_prepared_xacts)"
    )


def test_a_standby_that_is_waited_for_is_told_by_the_servers_setting() -> None:
    assert str(StandbyWait(1, 9.0, "FIRST 1 (b)")) == (
        "a synchronous standby to confirm a commit (synchronous_standby_names = 'FIRST 1 (b)')"
    )
