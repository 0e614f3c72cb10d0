"""One range of the initial copy: its rows and its row in the ledger, in one transaction.

Upstream: a copy writer process hands over the parts of a lane, one after the other. Downstream:
`landing`, which sends the rows; the ledger at the destination.
Invariant: a range is committed once, with as many rows as the source counted, and only while the
run and the incarnation stand in the progress row, and the range's snapshot in the table's row of
`copies`. In any doubt it is rolled back, and an attempt
that follows does it again. The table's lock comes before those of the rows, as in `prepare`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.sinks.postgres import progress
from pgflo.sinks.postgres.connection import failure
from pgflo.sinks.postgres.landing import Landed, Landing, Target

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

    from psycopg.rows import TupleRow

    from pgflo.sinks.contract import Range, Ruled
    from pgflo.sinks.postgres.connection import Destination


class RangeCopy:
    """Loads ranges through one connection, one at a time."""

    def __init__(
        self, conn: psycopg.Connection[TupleRow], to: Destination, incarnation: uuid.UUID
    ) -> None:
        self._conn = conn
        self._to = to
        self._incarnation = incarnation
        self._rules = to.spec.compiled() if to.spec else None
        self._range: Range | None = None
        self._target: Target | None = None
        self._landing: Landing | None = None

    def is_known(self, wanted: Range) -> bool:
        """Whether the range is committed already."""
        found = self._conn.execute(
            "SELECT FROM pgflo.copied_ranges WHERE group_name = %(group)s AND sink = %(sink)s"
            " AND incarnation = %(incarnation)s AND relation_oid = %(oid)s"
            " AND snapshot_lsn = %(snapshot)s AND range_no = %(range)s",
            self._ids(wanted),
        )
        return found.rowcount > 0

    def begin(self, wanted: Range, target: Target, *, is_binary: bool) -> None:
        """Begin the COPY of a range that is not known, whose rows come in this format.

        Raises `PgfloError`, as `write` does.
        """
        with _naming(wanted, target):
            self._conn.execute("BEGIN")
            self._landing = Landing(self._conn, target, self._rules, is_binary=is_binary)
        self._range, self._target = wanted, target

    def write(self, rows: memoryview) -> None:
        """Send a piece of the rows; pieces may end inside a row. Raises `_core.RulesError` too."""
        if self._landing is None or self._range is None or self._target is None:
            message = "no range is begun"
            raise RuntimeError(message)
        with _naming(self._range, self._target):
            self._landing.write(rows)

    def commit(self, total_rows: int) -> list[Ruled]:
        """End the COPY, check, book and commit the range; give what rules did.

        Raises `PgfloError` SINK_ROW_COUNT, GROUP_SUPERSEDED, or what the server said.
        """
        landing, done, target = self._landing, self._range, self._target
        if landing is None or done is None or target is None:
            message = "no range is begun"
            raise RuntimeError(message)
        self._landing = self._range = None
        with _naming(done, target):
            try:
                landed = landing.finish()
                self._book(done, target, total_rows, landed)
            except (PgfloError, _core.CoreError):
                landing.abandon()  # a COPY that still runs would take the ROLLBACK for a mistake
                self._conn.execute("ROLLBACK")
                raise
            self._conn.execute("COMMIT")
        return landed.counts

    def _book(self, done: Range, target: Target, total_rows: int, landed: Landed) -> None:
        read_rows = total_rows if landed.read_rows is None else landed.read_rows
        passed_rows = total_rows if landed.passed_rows is None else landed.passed_rows
        passed = "" if landed.read_rows is None else f" {read_rows} came, {passed_rows} passed,"
        if read_rows != total_rows or landed.arrived_rows != passed_rows:
            raise PgfloError(
                errors.SINK_ROW_COUNT,
                f"range {done.range_no} of {target.label}: {total_rows} rows were read,"
                f"{passed} {landed.arrived_rows} arrived",
                table=target.label,
            )
        self._hold_run(done)
        self._conn.execute(
            "INSERT INTO pgflo.copied_ranges (group_name, sink, incarnation, relation_oid,"
            " snapshot_lsn, range_no, attempt, row_count) VALUES (%(group)s, %(sink)s,"
            " %(incarnation)s, %(oid)s, %(snapshot)s, %(range)s, %(attempt)s, %(rows)s)",
            {**self._ids(done), "attempt": done.attempt, "rows": total_rows},
        )

    def abandon(self) -> None:
        """Roll back what is begun, if anything is."""
        landing, self._landing, self._range = self._landing, None, None
        if landing is not None:
            landing.abandon()
            self._conn.execute("ROLLBACK")

    def _hold_run(self, done: Range) -> None:
        """Keep the progress row ours, and the table this copy's, until the commit."""
        held = self._conn.execute(
            "SELECT FROM pgflo.progress WHERE group_name = %(group)s AND sink = %(sink)s"
            " AND shard = %(shard)s AND incarnation = %(incarnation)s AND owner = %(owner)s"
            " FOR SHARE",
            {**self._ids(done), "shard": progress.FIRST, "owner": self._to.owner},
        )
        fits = self._conn.execute(
            "SELECT FROM pgflo.copies WHERE group_name = %(group)s AND sink = %(sink)s"
            " AND relation_oid = %(oid)s AND incarnation = %(incarnation)s"
            " AND snapshot_lsn = %(snapshot)s FOR SHARE",
            self._ids(done),
        )
        if held.rowcount != 1 or fits.rowcount != 1:
            raise progress.superseded(self._to)

    def _ids(self, wanted: Range) -> dict[str, object]:
        return {
            "group": self._to.group,
            "sink": self._to.sink,
            "incarnation": self._incarnation,
            "oid": wanted.oid,
            "snapshot": _core.lsn_format(wanted.snapshot_lsn),
            "range": wanted.range_no,
        }


@contextlib.contextmanager
def _naming(wanted: Range, target: Target) -> Iterator[None]:
    """Tell a server error with the range it belongs to."""
    try:
        yield
    except psycopg.Error as error:
        doing = f"copying range {wanted.range_no} of {target.label}"
        raise failure(error, doing) from None


def copied_ranges(
    conn: psycopg.Connection[TupleRow], to: Destination, incarnation: uuid.UUID
) -> dict[tuple[int, int], dict[int, int]]:
    """Read the ledger: by (source oid, snapshot LSN) the rows of each committed range."""
    found: dict[tuple[int, int], dict[int, int]] = {}
    for oid, snapshot, range_no, rows in conn.execute(
        "SELECT relation_oid, snapshot_lsn::text, range_no, row_count FROM pgflo.copied_ranges"
        " WHERE group_name = %s AND sink = %s AND incarnation = %s",
        (to.group, to.sink, incarnation),
    ):
        found.setdefault((oid, _core.lsn_parse(snapshot)), {})[range_no] = rows
    return found
