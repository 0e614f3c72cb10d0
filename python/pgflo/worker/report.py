"""What the sink tells the group: its record in the key-value bucket, kept up to date.

Upstream: `run`, `copy_lanes` and `dispatcher` say what has been committed. Downstream: the
replicator (what is safe, what may be purged), `pgflo status`.
Invariant: nothing is told before the destination has committed it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from pgflo.broker.records import ShardRecord, SinkRecord
from pgflo.errors import PgfloError
from pgflo.rules.bind import changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from pgflo.broker.record import Record
    from pgflo.broker.records import RuleRecord
    from pgflo.worker.shard import Mark

log = structlog.get_logger("pgflo.worker")

LOOK_S = 1.0

SHORTEST_PAUSE_S = 0.25
"""Between two updates of the record."""

LAST_WORD_S = 2.0
"""How long the last word to the group may take."""


class Report:
    """The sink's record. Made by `register`."""

    def __init__(self, record: Record, told: SinkRecord) -> None:
        self._record = record
        self._told = told
        self._changed = asyncio.Event()

    @classmethod
    async def register(
        cls,
        record: Record,
        name: str,
        kind: str,
        incarnation: str,
        position: tuple[int, int],
        end_lsn: int,
    ) -> Report:
        """Register the sink, or go on with its record of this incarnation."""
        known = (await record.sinks()).get(name)
        fresh = SinkRecord(
            name=name,
            kind=kind,
            incarnation=incarnation,
            commit_lsn=position[0],
            ordinal=position[1],
            end_lsn=end_lsn,
            phase="preparing",
        )
        if known is not None and known.incarnation == incarnation:
            fresh = replace(
                fresh,
                lane_seqs=known.lane_seqs,
                commit_time_us=known.commit_time_us,
                applied_changes=known.applied_changes,
                rule_counts=known.rule_counts,
                rule_digests=known.rule_digests,
            )
        elif known is not None:
            await record.drop_sink(name)
        self = cls(record, fresh)
        await self._put()
        return self

    @property
    def lane_seqs(self) -> dict[int, int]:
        """Copy lane → last sequence that is applied."""
        return self._told.lane_seqs

    @property
    def applied(self) -> tuple[int, int, int]:
        """Change whenever something is committed: position, and the lanes' progress."""
        told = self._told
        return told.commit_lsn, told.ordinal, sum(told.lane_seqs.values())

    @property
    def end_lsn(self) -> int:
        """End of the last commit that is applied."""
        return self._told.end_lsn

    def phase(self, phase: str) -> None:
        """Tell what the sink does.

        preparing, copying, indexing, analyzing, streaming; stopping, stopped, done.
        """
        self._change(replace(self._told, phase=phase))

    def lane(self, lane: int, seq: int) -> None:
        """Tell that everything of a copy lane up to `seq` is applied."""
        self._change(replace(self._told, lane_seqs={**self._told.lane_seqs, lane: seq}))

    def moved(
        self, position: tuple[int, int], end_lsn: int, commit_time_us: int, changes: int
    ) -> None:
        """Tell that the destination has committed everything up to `position`."""
        self._change(
            replace(
                self._told,
                commit_lsn=position[0],
                ordinal=position[1],
                end_lsn=end_lsn,
                commit_time_us=max(commit_time_us, self._told.commit_time_us),
                applied_changes=self._told.applied_changes + changes,
            )
        )

    def begin_rules(self, rules: Sequence[RuleRecord]) -> None:
        """Tell which rules and routes there are; counts of those that were there before go on."""
        known = {rule.number: rule for rule in self._told.rule_counts}
        told = [
            replace(rule, dropped_rows=was.dropped_rows, changed_rows=was.changed_rows)
            if (was := known.get(rule.number)) is not None and rule.goes_on(was)
            else rule
            for rule in rules
        ]
        if told != self._told.rule_counts:
            self._change(replace(self._told, rule_counts=told))

    def ruled(self, counts: Iterable[tuple[int, int, int]]) -> None:
        """Tell what rules did: their places among all, from 0, rows dropped, rows changed."""
        rules = list(self._told.rule_counts)
        for place, dropped, changed in counts:
            rules[place] = replace(
                rules[place],
                dropped_rows=rules[place].dropped_rows + dropped,
                changed_rows=rules[place].changed_rows + changed,
            )
        if rules != self._told.rule_counts:
            self._change(replace(self._told, rule_counts=rules))

    def compiled(self, programs: dict[str, list[str]]) -> None:
        """Tell what is made of each table, and log how that was otherwise until now."""
        before = self._told.rule_digests
        changed = {
            table: told
            for table in sorted(programs.keys() | before.keys())
            if (told := changes(before.get(table, []), programs.get(table, [])))
        }
        if changed:
            log.info(
                "rules or routing are other than before",
                tables=", ".join(changed),
                changes="; ".join(f"{table}: {', '.join(told)}" for table, told in changed.items()),
            )
            self._change(replace(self._told, rule_digests=programs))

    def shards(self, stored: Sequence[Mark]) -> None:
        """Tell where each shard stands. One alone is where the sink is, and is told nothing of."""
        told = [ShardRecord(*mark.position, mark.end_lsn) for mark in stored if len(stored) > 1]
        if told != self._told.shards:
            self._change(replace(self._told, shards=told))

    def blocked(self, by: str) -> None:
        """Tell what the destination waits for, and for whom; empty when it goes on."""
        self._change(replace(self._told, blocked_by=by))

    def parts(self, total: int, done: int) -> None:
        """Tell how many indexes, constraints and triggers are made, of so many."""
        self._change(
            replace(self._told, phase="indexing", schema_parts=total, schema_parts_done=done)
        )

    async def reached(self, lsn: int | None) -> None:
        """Return when everything up to `lsn` is applied; never for None."""
        while True:
            if lsn is not None and self._told.end_lsn >= lsn:
                return
            await asyncio.sleep(LOOK_S)

    async def run(self) -> None:
        """Write the record whenever it changes. Never returns."""
        while True:
            await self._changed.wait()
            await self._put()
            await asyncio.sleep(SHORTEST_PAUSE_S)

    async def flush(self) -> None:
        """Write the record now, if it changed."""
        if self._changed.is_set():
            await self._put()

    def _change(self, told: SinkRecord) -> None:
        self._told = told
        self._changed.set()

    async def _put(self) -> None:
        self._changed.clear()
        self._told = replace(self._told, updated_at=datetime.now(UTC).isoformat())
        await self._record.put_sink(self._told)


async def tell_last(word: Awaitable[None]) -> None:
    """Tell the group what is committed before silence, if the broker listens.

    Nothing depends on it, but a sink may have no other memory, and would be told rows again.
    """
    with contextlib.suppress(PgfloError, TimeoutError):
        async with asyncio.timeout(LAST_WORD_S):
            await word
