"""How an epoch reaches the writers: whole, split by key, or gathered after a crash.

Upstream: `dispatcher` cuts epochs. Downstream: the native splitter, `shards`.
Invariant: a change goes to the shard that the assignment in force tells, or into a barrier.

With one shard epochs go whole, as they came. With more they are split; what no shard can do alone
(TRUNCATE, a key that moves to another shard, a table without a route) makes its epoch a barrier:
one writer applies all of it when every shard has committed what came before, also in the middle of
a source transaction. A table without a route gets one in the same destination transaction.

A crash may leave the shards' rows at different positions. Then what each of them lacks, under the
assignment it was written by, is gathered into one sequence in source order and applied by the
writer of the row that is furthest behind, until all rows stand at one position.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from pgflo import _core
from pgflo.worker.filtering import rules_error
from pgflo.worker.shard import mark_of
from pgflo.worker.sifting import sifted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pgflo.sinks.postgres.assignment import Assignment
    from pgflo.sinks.postgres.connection import Destination
    from pgflo.sinks.postgres.placement import Placement
    from pgflo.worker.epochs import Cut
    from pgflo.worker.shards import Shards

log = structlog.get_logger("pgflo.worker")

AT_ONCE_BYTES = 256 * 1024
"""So much is split in a fraction of a millisecond; more in a thread, so that others go on."""


class Spreading(Protocol):
    """What the dispatcher hands epochs to."""

    def writers(self) -> list[int]:
        """Tell the shards whose writers are needed."""
        ...

    async def send(self, cut: Cut) -> None:
        """Send an epoch on its way; it is booked when this returns."""
        ...

    async def finished(self) -> None:
        """Return when there is nothing more to do; for ever waits what has no end."""
        ...


class Whole:
    """One shard."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards

    def writers(self) -> list[int]:
        """Tell the shards whose writers are needed."""
        return [0]

    async def send(self, cut: Cut) -> None:
        """Send an epoch as it came."""
        await self._shards.whole(cut)

    async def finished(self) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()


class Split:
    """Several shards, all at one position."""

    def __init__(
        self, shards: Shards, to: Destination, placement: Placement, assignment: Assignment
    ) -> None:
        self._shards = shards
        self._to = to
        self._placement = placement
        self._assignment = assignment
        self._splitter = _core.Splitter(assignment.shards)
        self._unknown: _core.Relation | None = None
        """The table that made the present epoch a barrier."""

    def writers(self) -> list[int]:
        """Tell the shards whose writers are needed."""
        return [shard.number for shard in self._shards.all]

    async def send(self, cut: Cut) -> None:
        """Send an epoch in slices, or as a barrier."""
        bodies, is_barrier = await _in_time(cut, self._splitter, self._shards, self._route)
        if not is_barrier:
            await self._shards.slices(cut, _prev(cut), bodies)
            return
        unknown, self._unknown = self._unknown, None
        if unknown is None:
            await self._shards.barrier(cut)
            return
        self._assignment = await asyncio.to_thread(self._learn, unknown)
        log.info(
            "a table was assigned to the shards",
            table=f"{unknown.schema}.{unknown.name}",
            by_key=bool(self._assignment.tables[unknown.oid].key),
        )
        await self._shards.barrier(cut, self._assignment.to_json())
        self._splitter.forget()

    async def finished(self) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()

    def _route(self, relation: _core.Relation) -> None:
        route = self._assignment.route(relation)
        if route is None:
            self._unknown = relation
            self._splitter.route(relation.oid)
        else:
            route.give(self._splitter, relation)

    def _learn(self, relation: _core.Relation) -> Assignment:
        with self._to.connect("worker") as conn:
            try:
                return self._placement.learn(conn, relation)
            except _core.RulesError as error:
                raise rules_error(error) from None


class Gather:
    """Several shards whose rows a crash left at different positions."""

    def __init__(self, shards: Shards, assignment: Assignment) -> None:
        self._shards = shards
        self._assignment = assignment
        rows = [shard.stored.position for shard in shards.all]
        self._writer = shards.all[rows.index(min(rows))]
        self._splitter = _core.Splitter(len(rows), rows)
        self._level = asyncio.Event()

    def writers(self) -> list[int]:
        """Tell the shards whose writers are needed."""
        return [self._writer.number]

    async def send(self, cut: Cut) -> None:
        """Send what any shard lacks of an epoch."""
        (body,), _ = await _in_time(cut, self._splitter, self._shards, self._route)
        await self._shards.gathered(cut, _prev(cut), body, self._writer)
        if all(shard.sent.position == mark_of(cut.last).position for shard in self._shards.all):
            await self._shards.wait_idle()
            self._level.set()
            await asyncio.Event().wait()  # whatever comes now is for all writers

    async def finished(self) -> None:
        """Return when all rows stand at one position."""
        await self._level.wait()

    def _route(self, relation: _core.Relation) -> None:
        route = self._assignment.route(relation)
        if route is None:
            self._splitter.route(relation.oid)
        else:
            route.give(self._splitter, relation)


class _Route(Protocol):
    def __call__(self, relation: _core.Relation) -> None:
        """Give the splitter the route it asks for."""
        ...


async def _in_time(
    cut: Cut, splitter: _core.Splitter, shards: Shards, route: _Route
) -> tuple[list[bytes | None], bool]:
    after, snapshots = shards.last.position, shards.to.snapshots
    if sum(unit.size_bytes for unit in cut.units) <= AT_ONCE_BYTES:
        return _split(cut, splitter, after, snapshots, route)
    return await asyncio.to_thread(_split, cut, splitter, after, snapshots, route)


def _split(
    cut: Cut,
    splitter: _core.Splitter,
    after: tuple[int, int],
    snapshots: Mapping[int, int],
    route: _Route,
) -> tuple[list[bytes | None], bool]:
    for body, prev, end in _bodies(cut, snapshots):
        splitter.load(body, prev, after)
        while (relation := splitter.run()) is not None:
            route(relation)
        after = max(after, end)
    return splitter.take()


def _bodies(
    cut: Cut, snapshots: Mapping[int, int]
) -> Iterator[tuple[bytes | memoryview, tuple[int, int], tuple[int, int]]]:
    """Give each body, without what copies hold, and the positions where it begins and ends."""
    for unit in cut.units:
        header = unit.header
        if header.kind == _core.KIND_CHANGES:
            body = b"".join(memoryview(part)[_core.HEADER_BYTES :] for part in unit.envelopes)
            prev = (header.prev_commit_lsn, header.prev_ordinal)
            yield sifted(body, prev, snapshots), prev, (header.commit_lsn, header.ordinal)


def _prev(cut: Cut) -> tuple[int, int]:
    """Tell where the first body begins."""
    for unit in cut.units:
        if unit.header.kind == _core.KIND_CHANGES:
            return unit.header.prev_commit_lsn, unit.header.prev_ordinal
    return 0, 0
