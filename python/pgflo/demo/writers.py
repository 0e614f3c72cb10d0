"""Writers that keep the source busy while it is copied, as an application would.

Upstream: the demo. Downstream: the source server, through one connection per writer.
Invariant: when `stop` returns, every transaction of theirs is committed or rolled back.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable

Connection = psycopg.Connection[Any]

PAUSE_S = 0.002
"""Between transactions: the point is to write meanwhile, not to fill both cores."""


class Writers:
    """A few threads, each with its own connection and its own seed."""

    def __init__(self, dsn: str, count: int) -> None:
        self.transactions = 0
        self.changes = 0
        self.failure: psycopg.Error | None = None
        self._dsn = dsn
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._write, args=(number,), name=f"writer {number}")
            for number in range(count)
        ]

    def start(self) -> None:
        """Begin to write."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Return when the last transaction is over. Raises what a writer failed with."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        if self.failure is not None:
            raise self.failure

    def _write(self, number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - load, not secrets
        try:
            with psycopg.connect(self._dsn, autocommit=True) as conn:
                fresh = 10_000_000 * (number + 1)
                while not self._stop.is_set():
                    fresh += 1
                    kind = chance.choices(KINDS, WEIGHTS)[0]
                    with conn.transaction():
                        changes = kind(conn, chance, fresh)
                    with self._lock:
                        self.transactions += 1
                        self.changes += changes
                    time.sleep(PAUSE_S)
        except psycopg.Error as error:
            self.failure = error


def _transfer(conn: Connection, chance: random.Random, fresh: int) -> int:
    """Move money between two accounts, in the order of their keys, and note it."""
    a, b = sorted(chance.sample(range(1, 500_001), 2))
    amount = chance.randrange(1, 10_000) / 100
    conn.execute("UPDATE accounts SET balance = balance - %s WHERE id = %s", (amount, a))
    conn.execute("UPDATE accounts SET balance = balance + %s WHERE id = %s", (amount, b))
    conn.execute(
        "INSERT INTO events (at, account, what) VALUES (%s::timestamptz + %s * interval '1 s', %s,"
        " jsonb_build_object('kind', 'transfer', 'n', %s::bigint))",
        ("2025-12-01 00:00:00+00", fresh % 86_400, a, fresh),
    )
    return 3


def _order(conn: Connection, chance: random.Random, fresh: int) -> int:
    """Insert an order of four lines."""
    conn.execute(
        'INSERT INTO "Order Items"'
        " SELECT %s, n, %s, n + 1, 9.99, NULL FROM generate_series(0, 3) n",
        (fresh, f"SKU-{chance.randrange(5000)}"),
    )
    return 4


def _cancel(conn: Connection, chance: random.Random, _fresh: int) -> int:
    """Delete an old order."""
    found = conn.execute(
        'DELETE FROM "Order Items" WHERE "Order" = %s', (chance.randrange(50_000),)
    )
    return found.rowcount


def _read(conn: Connection, chance: random.Random, _fresh: int) -> int:
    """Change a document's small column; its large one stays where it is."""
    conn.execute(
        "UPDATE documents SET read_count = read_count + 1 WHERE id = %s",
        (chance.randrange(1, 2001),),
    )
    return 1


def _rewrite(conn: Connection, chance: random.Random, _fresh: int) -> int:
    """Change a large value."""
    conn.execute(
        "UPDATE documents SET body = reverse(body) WHERE id = %s", (chance.randrange(1, 2001),)
    )
    return 1


def _move(conn: Connection, chance: random.Random, _fresh: int) -> int:
    """Move an event to another partition."""
    found = conn.execute(
        "UPDATE events SET at = at + interval '92 days' WHERE id = %s AND at < '2025-07-01'",
        (chance.randrange(1, 200_001),),
    )
    return 2 * found.rowcount


def _rename(conn: Connection, chance: random.Random, fresh: int) -> int:
    """Change a key, and take the change back."""
    visit = chance.randrange(1, 98_001)
    conn.execute("UPDATE visits SET id = %s WHERE id = %s", (fresh, visit))
    conn.execute("UPDATE visits SET id = %s WHERE id = %s", (visit, fresh))
    return 2


def _buy(conn: Connection, chance: random.Random, _fresh: int) -> int:
    """Change Chinook, too."""
    conn.execute(
        "UPDATE chinook.track SET unit_price = unit_price + 0.01 WHERE track_id = %s",
        (chance.randrange(1, 3504),),
    )
    return 1


KINDS: list[Callable[[Connection, random.Random, int], int]] = [
    _transfer,
    _order,
    _cancel,
    _read,
    _rewrite,
    _move,
    _rename,
    _buy,
]
WEIGHTS = [40, 20, 10, 10, 2, 6, 4, 8]
