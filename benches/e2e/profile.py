"""Where the destination's time goes while pgflo works: wait events, and the costliest statements.

Upstream: `observe.py`, only when asked for. Downstream: the target server. Invariant: nothing is
created in the database that is measured; the extension lives in `postgres`, and the bench's own
sessions are not counted.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from benches.e2e.bed import Bed

EXTENSION = "pg_stat_statements"
SAMPLE_S = 0.05
TOP = 10
TEXT_CHARACTERS = 110
ACTIVITY = r"""
SELECT state, coalesce(wait_event_type || ':' || wait_event, 'on the CPU'),
       substring(query FROM '\w+'), count(*)
FROM pg_stat_activity
WHERE datname = %s AND backend_type = 'client backend' AND NOT pid = ANY(%s)
GROUP BY 1, 2, 3
"""
STATEMENTS = """
SELECT s.total_exec_time, s.calls, s.rows, s.wal_bytes / 1e6, s.query
FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
WHERE d.datname = %s ORDER BY s.total_exec_time DESC LIMIT %s
"""


def make_room(bed: Bed) -> None:
    """Let the target load the extension, where the installation has it."""
    with bed.connect(bed.target, "postgres") as conn:
        found = conn.execute(
            "SELECT FROM pg_available_extensions WHERE name = %s", (EXTENSION,)
        ).fetchone()
    if found is None:
        return
    bed.target.restart(settings={"shared_preload_libraries": EXTENSION})
    with bed.connect(bed.target, "postgres") as conn:
        conn.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(EXTENSION)))


@dataclass
class Profile:
    """Samples of one timed piece, in database `dbname` of the target."""

    bed: Bed
    dbname: str
    ignored: frozenset[int]
    samples: int = 0
    events: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _statements: str = ""

    def sample(self, conn: psycopg.Connection) -> None:
        """Count what each session of the database does at this moment."""
        self.samples += 1
        for state, event, verb, count in conn.execute(ACTIVITY, (self.dbname, list(self.ignored))):
            self.events[state, event, verb] += count

    def read_statements(self, conn: psycopg.Connection) -> None:
        """Keep the costliest statements of the piece."""
        rows = conn.execute(STATEMENTS, (self.dbname, TOP)).fetchall()
        self._statements = "\n".join(
            f"      {total_ms / 1e3:7.2f} s {calls:7} calls {rows:9} rows {wal_mb:7.1f} MB WAL  "
            + " ".join(query.split())[:TEXT_CHARACTERS]
            for total_ms, calls, rows, wal_mb, query in rows
        )

    def report(self) -> str:
        """Print the share of samples by state, wait event and statement; then the statements."""
        shares = "\n".join(
            f"      {count / self.samples:7.1%}  {state}, {event}, {verb}"
            for (state, event, verb), count in self.events.most_common(TOP)
        )
        heading = f"    destination sessions of {self.dbname}, share of {self.samples} samples"
        return "\n".join([heading, shares, f"    {EXTENSION}, by total time", self._statements])


@contextlib.contextmanager
def profiled(profile: Profile) -> Iterator[None]:
    """Sample until the block ends."""
    done = threading.Event()
    with profile.bed.connect(profile.bed.target, "postgres") as conn:
        has_statements = conn.execute(
            "SELECT to_regclass('pg_stat_statements') IS NOT NULL"
        ).fetchone() == (True,)
        if has_statements:
            conn.execute("SELECT pg_stat_statements_reset()")

        def loop() -> None:
            while not done.wait(SAMPLE_S):
                profile.sample(conn)

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            if has_statements:
                profile.read_statements(conn)
