"""The two contenders: pgflo as a user starts it, and PostgreSQL's own subscription.

Upstream: `bed.py`. Downstream: the measurements. Invariant: pgflo runs as separate processes
through its command line, with nothing switched off.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from psycopg import sql

from benches.e2e.bed import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import psycopg

    from benches.e2e.bed import Bed


def has_ended(processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Tell whether any of `processes` is gone: nothing is worth waiting for then."""
    return any(process.poll() is not None for process in processes)


@dataclass(frozen=True)
class Pgflo:
    """One group, from `source_db` to `target_db`, with its state below the bed's folder."""

    bed: Bed
    group: str
    source_db: str
    target_db: str
    worker_flags: tuple[str, ...] = ()

    @property
    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PG_FLO_GROUP": self.group,
            "PG_FLO_SOURCE": self.bed.source.dsn(self.source_db),
            "PG_FLO_TARGET": self.bed.target.dsn(self.target_db),
            "PG_FLO_NATS_URL": self.bed.broker.url,
            "PG_FLO_STATE_DIR": str(self.bed.directory / "state"),
            "PG_FLO_LOG_FORMAT": "json",
        }

    @property
    def _worker_flags(self) -> tuple[str, ...]:
        """One shard is the default, which needs no flag."""
        shards = () if self.bed.shards == 1 else ("--shards", str(self.bed.shards))
        return (*shards, *self.worker_flags)

    @property
    def _log(self) -> Path:
        return self.bed.directory / f"{self.group}.log"

    def start(self, *arguments: str, stdout: BinaryIO | None = None) -> subprocess.Popen[bytes]:
        """Start one command of the group, as its user types it."""
        with self._log.open("ab") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", "pgflo", *arguments],
                env=self._environment,
                stdout=stdout,
                stderr=stderr,
            )

    def finish(self, process: subprocess.Popen[bytes], limit_s: float) -> None:
        """Wait for a command that ends by itself, which must be with exit 0."""
        try:
            process.wait(limit_s)
        except BaseException:
            process.terminate()
            self._show_log()
            raise
        if process.returncode:
            self._show_log()
            message = f"{process.args!r} ended with exit {process.returncode}"
            raise AssertionError(message)

    def _show_log(self) -> None:
        sys.stderr.write(self._log.read_text(errors="replace")[-4000:])

    @contextlib.contextmanager
    def running(self, *mode: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Run replicator and worker as two commands; both are drained and must end with exit 0."""
        processes = [
            self.start("replicate", *mode),
            self.start("worker", "postgres", *self._worker_flags),
        ]
        try:
            yield processes
        except BaseException:
            self._show_log()
            raise
        finally:
            codes = []
            for process in processes:
                process.terminate()
                codes.append(process.wait(60))
        if any(codes):
            self._show_log()
            message = f"exit codes {codes}"
            raise AssertionError(message)

    def applied_lsn(self, conn: psycopg.Connection) -> int:
        """Read how far the destination is, as an integer LSN; 0 before the first start."""
        exists = conn.execute("SELECT to_regclass('pgflo.progress')").fetchone()
        if exists is None or exists[0] is None:
            return 0
        row = conn.execute(
            "SELECT (min(end_lsn) - '0/0')::bigint FROM pgflo.progress WHERE group_name = %s",
            (self.group,),
        ).fetchone()
        return int(row[0]) if row and row[0] is not None else 0

    def copied_rows(self, conn: psycopg.Connection) -> int:
        """Count the rows that the copy has committed."""
        exists = conn.execute("SELECT to_regclass('pgflo.copied_ranges')").fetchone()
        if exists is None or exists[0] is None:
            return 0
        row = conn.execute(
            "SELECT coalesce(sum(row_count), 0) FROM pgflo.copied_ranges WHERE group_name = %s",
            (self.group,),
        ).fetchone()
        return int(row[0]) if row else 0

    def schema_is_made(self, conn: psycopg.Connection) -> bool:
        """Tell whether every part that the worker brings is there: keys and indexes as well."""
        row = conn.execute(
            "SELECT bool_and(done_at IS NOT NULL) FROM pgflo.schema_parts"
        ).fetchone()
        return bool(row and row[0])

    def forget(self) -> None:
        """Remove the group: slot, publication, streams."""
        subprocess.run(
            [sys.executable, "-m", "pgflo", "drop", "--yes"],
            env=self._environment,
            check=True,
            capture_output=True,
        )


@dataclass(frozen=True)
class Native:
    """PostgreSQL's own publication and subscription between the same two servers."""

    bed: Bed
    name: str
    source_db: str
    target_db: str

    def publish(self, tables: tuple[str, ...]) -> None:
        """Create the publication and the slot at the source."""
        with self.bed.connect(self.bed.source, self.source_db) as conn:
            conn.execute(
                sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(
                    sql.Identifier(self.name), sql.SQL(", ").join(map(sql.Identifier, tables))
                )
            )
            conn.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (self.name,))

    def subscribe(self, *, copy_data: bool, enabled: bool) -> None:
        """Create the subscription at the target; with `copy_data` it starts to copy at once."""
        with self.bed.connect(self.bed.target, self.target_db) as conn:
            conn.execute(
                sql.SQL(
                    "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH (create_slot = false,"
                    " slot_name = {}, copy_data = {}, enabled = {}, binary = true)"
                ).format(
                    sql.Identifier(self.name),
                    sql.Literal(self.bed.source.dsn(self.source_db)),
                    sql.Identifier(self.name),
                    sql.Literal(self.name),
                    sql.Literal(copy_data),
                    sql.Literal(enabled),
                )
            )

    def enable(self, conn: psycopg.Connection) -> None:
        """Let the subscription run."""
        conn.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(sql.Identifier(self.name)))

    def disable(self, conn: psycopg.Connection) -> None:
        """Stop the subscription, and return when its processes no longer cost anything."""
        conn.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(sql.Identifier(self.name)))
        with self.bed.connect(self.bed.source, self.source_db) as source:
            wait_for(lambda: not self._is_read(source), limit_s=60, what="end of the subscription")

    def _is_read(self, conn: psycopg.Connection) -> bool:
        row = conn.execute(
            "SELECT active FROM pg_replication_slots WHERE slot_name = %s", (self.name,)
        ).fetchone()
        return bool(row and row[0])

    def copied(self, conn: psycopg.Connection) -> bool:
        """Tell whether every table's initial synchronisation is done."""
        row = conn.execute(
            "SELECT bool_and(srsubstate IN ('s', 'r')) FROM pg_subscription_rel"
        ).fetchone()
        return bool(row and row[0])

    def confirmed_lsn(self, conn: psycopg.Connection) -> int:
        """Read at the source how far the subscription has flushed, as an integer LSN."""
        row = conn.execute(
            "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots"
            " WHERE slot_name = %s",
            (self.name,),
        ).fetchone()
        return int(row[0]) if row else 0

    def remove(self) -> None:
        """Drop subscription, slot and publication."""
        with self.bed.connect(self.bed.target, self.target_db) as conn:
            conn.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(sql.Identifier(self.name)))
            conn.execute(sql.SQL("DROP SUBSCRIPTION {}").format(sql.Identifier(self.name)))
        with self.bed.connect(self.bed.source, self.source_db) as conn:
            conn.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(self.name)))
