"""From the copy to the change stream: which shards there are, and what has to be mended first.

Upstream: `run`, once every row of the copy is there. Downstream: `dispatcher`, run once or twice.
Invariant: writers start only when all progress rows stand at one position and the assignment that
they work by is stored.

The rows and the assignment that stand at the destination are those of the last run. If a crash left
the rows uneven they are made even under that assignment; only then is it replaced by the one that
follows from `--shards` and from what the destination's tables look like today.

All that is PostgreSQL's. Any other sink has one shard and one row, and nothing to mend.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import structlog

from pgflo import _core, errors
from pgflo.errors import PgfloError
from pgflo.sinks.contract import Progress
from pgflo.sinks.postgres import assignment, progress
from pgflo.sinks.postgres.connection import failure
from pgflo.sinks.postgres.placement import Placement
from pgflo.sinks.postgres.sink import PostgresSink
from pgflo.sinks.postgres.tables import source_shape
from pgflo.supervisor.race import first_of
from pgflo.worker.dispatcher import Dispatcher
from pgflo.worker.lock_watch import watched
from pgflo.worker.shards import Shards
from pgflo.worker.spreading import Gather, Split, Whole

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from psycopg.rows import TupleRow

    from pgflo.broker.connection import Broker
    from pgflo.broker.names import Names
    from pgflo.config.settings import WorkerSettings
    from pgflo.rules.bind import Bound
    from pgflo.sinks.contract import Sink
    from pgflo.sinks.postgres.assignment import Assignment
    from pgflo.sinks.postgres.connection import Destination
    from pgflo.sinks.postgres.placement import SourceShape
    from pgflo.worker.group_view import GroupView, View
    from pgflo.worker.report import Report
    from pgflo.worker.spreading import Spreading

log = structlog.get_logger("pgflo.worker")


@dataclass(frozen=True, slots=True)
class Stock:
    """What stands at the destination, and what should."""

    rows: list[Progress]
    stored: Assignment
    placement: Placement
    wanted: Assignment

    @property
    def is_level(self) -> bool:
        """Whether all rows stand at one position."""
        return len({row.position for row in self.rows}) == 1


class Streaming:
    """Applies the change stream. `run` is all there is."""

    def __init__(
        self,
        broker: Broker,
        names: Names,
        settings: WorkerSettings,
        to: Sink,
        group_view: GroupView,
        view: View,
        report: Report,
        bound: Bound | None,
        *,
        whole_only: bool,
    ) -> None:
        """`whole_only`: begin no transaction whose end is not in the stream yet."""
        self._bound = bound
        self._broker = broker
        self._names = names
        self._settings = settings
        self._to = to
        self._group_view = group_view
        self._view = view
        self._report = report
        self._whole_only = whole_only

    async def run(self, stop: asyncio.Event) -> None:
        """Apply until the ending is reached or `stop` is set. Raises `PgfloError`."""
        if isinstance(self._to, PostgresSink):
            await self._spread(self._to, stop)
            return
        start_lsn = self._view.group.start_lsn
        # Its writer says where it stands.
        row = Progress(0, self._names.incarnation, start_lsn, 0, start_lsn, 0)
        shards = self._shards([row])
        await self._dispatch(shards, Whole(shards), stop)

    async def _spread(self, to: PostgresSink, stop: asyncio.Event) -> None:
        take_stock = functools.partial(self._take_stock, to)
        stock = await watched(to, take_stock, self._report)
        if not stock.is_level:
            log.info("shards stand at different positions; first they are made even")
            shards = self._shards(stock.rows)
            await self._dispatch(shards, Gather(shards, stock.stored), stop)
            if stop.is_set() or not shards.is_level:
                return
            stock = await watched(to, take_stock, self._report)
        rows = stock.rows
        if stock.stored.digest != stock.wanted.digest:
            settle = functools.partial(self._settle, to, stock)
            rows = await watched(to, settle, self._report)
        shards = self._shards(rows)
        spreading: Spreading = Whole(shards)
        if stock.wanted.shards > 1:
            spreading = Split(shards, to, stock.placement, stock.wanted)
        await self._dispatch(shards, spreading, stop)

    async def _dispatch(self, shards: Shards, spreading: Spreading, stop: asyncio.Event) -> None:
        dispatcher = Dispatcher(
            self._broker,
            self._names,
            self._settings,
            shards,
            spreading,
            self._view.group,
            self._group_view,
            self._report,
            whole_only=self._whole_only,
        )
        await first_of(dispatcher.run(stop), self._report.run())

    def _shards(self, rows: Sequence[Progress]) -> Shards:
        return Shards(self._to, self._names.incarnation, rows)

    def _take_stock(self, to: PostgresSink) -> Stock:
        shapes = [source_shape(table, self._bound) for table in self._view.tables.values()]
        with to.connect("worker") as conn:
            try:
                return take_stock(conn, to, self._settings.shards, to.roots, shapes)
            except psycopg.Error as error:
                raise failure(error, "cannot read how changes are spread over shards") from None

    @staticmethod
    def _settle(to: PostgresSink, stock: Stock) -> list[Progress]:
        with to.connect("worker") as conn:
            try:
                return settle(conn, to, stock)
            except psycopg.Error as error:
                raise failure(error, "cannot spread changes over shards anew") from None


def take_stock(
    conn: psycopg.Connection[TupleRow],
    to: Destination,
    shards: int,
    roots: Mapping[int, tuple[str, str] | None],
    shapes: Sequence[SourceShape],
) -> Stock:
    """Take all rows, read the assignment they were written by, and find the one that is wanted.

    Raises `PgfloError` GROUP_SUPERSEDED, or SINK_REFUSED for uneven rows of which nothing tells how
    they became so.
    """
    rows = progress.take_all(conn, to)
    stored = assignment.read(conn, to)
    rules = to.spec.compiled() if to.spec else None
    placement = Placement(_allowed(conn, shards), roots, rules)
    stock = Stock(rows, stored, placement, placement.look(conn, shapes))
    known = (len(rows), _core.HASH_VERSION) == (stored.shards, stored.hash_version)
    if not known and not stock.is_level:
        raise PgfloError(
            errors.SINK_REFUSED,
            f"{len(rows)} shards stand at different positions, and were written by another version"
            " of pgflo",
            hint="Run the version that wrote them once more, and end it by SIGTERM.",
        )
    return stock


def settle(conn: psycopg.Connection[TupleRow], to: Destination, stock: Stock) -> list[Progress]:
    """Replace assignment and rows, all of which stand at one position, by those that are wanted."""
    with conn.transaction():
        progress.spread(conn, to, stock.rows, stock.wanted.shards)
        assignment.write(conn, to, stock.wanted)
    log.info(
        "changes are spread over shards",
        shards=stock.wanted.shards,
        before=stock.stored.shards,
        tables_by_key=sum(bool(route.key) for route in stock.wanted.tables.values()),
        tables_whole=sum(not route.key for route in stock.wanted.tables.values()),
    )
    return progress.take_all(conn, to)


def _allowed(conn: psycopg.Connection[TupleRow], shards: int) -> int:
    """Tell how many shards there can be: foreign keys that act on rows need the source's order."""
    row = conn.execute("SELECT pg_catalog.current_setting('session_replication_role')").fetchone()
    if shards == 1 or row == ("replica",):
        return shards
    log.warning(
        "changes are applied by one shard, since the destination's triggers and foreign keys act",
        shards=shards,
    )
    return 1
