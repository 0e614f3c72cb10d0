"""kill -9 of everything that takes part in the initial copy, under load: equal, and little twice.

Several copy processes read small ranges of tables that are written meanwhile, several copy writers
load them. Who dies (the holder of the snapshot, the replicator, a copy process, the worker, a copy
writer, the broker) and when is drawn from the seed that is printed. A copy that is over before all
rounds are done is proved equal and followed by another one, so every round is a kill.

What was done twice is counted by the servers (`tests.copy_counts`). While the holder lives, a
killed copy process costs less than a range at the source, and a killed copy writer less than a
range at the destination; killing a replicator, a worker or the broker is killing all of theirs.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.copy_counts import CopyMirror, count_loads, loaded_rows
from tests.fix_load import Load, seed_of_choices
from tests.fix_nats import delete_all_streams
from tests.fix_pipeline import Command, Pipeline, eventually
from tests.fix_postgres import fresh_database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fix_nats import NatsFactory

    from pgflo.embedded import EmbeddedNats, EmbeddedPostgres

ROUNDS = 30 if os.environ.get("PGFLO_LONG") else 4

LANES = 3
"""Copy processes, and as many copy writers."""

AT_THE_SOURCE = ("holder", "replicator", "copy process")
AT_THE_DESTINATION = ("worker", "copy writer")
VICTIMS = (*AT_THE_SOURCE, *AT_THE_DESTINATION, "broker")

MOST_TRANSACTIONS = 30
MOST_ENVELOPES = 150
"""Longest waits for the moment of a kill."""

pytestmark = pytest.mark.timeout(1200)


@dataclass
class Figures:
    """What copies did more than once, and what they may."""

    copies: int = 0
    ranges: int = 0
    again: int = 0
    """Attempts at ranges beyond the first, under the same snapshot."""
    again_allowed: int = 0
    """Copy processes that were killed, also with their replicator, or lost the broker."""
    again_rows: int = 0
    again_allowed_rows: int = 0
    thrown_rows: int = 0
    """Rows that copy writers loaded and that were rolled back."""
    thrown_allowed_rows: int = 0
    renewed_rows: int = 0
    """Rows of snapshots whose holder was killed: these may be copied twice."""


class CopyUnderFire:
    """One group's copy, from its first process to the proof that both sides are equal."""

    def __init__(
        self,
        stack: ExitStack,
        servers: tuple[EmbeddedPostgres, EmbeddedPostgres],
        broker: EmbeddedNats,
        directory: Path,
        seed: int,
    ) -> None:
        source, target = (
            stack.enter_context(fresh_database(server, "kill_the_copy")) for server in servers
        )
        directory.mkdir()
        self._broker = broker
        self._pipeline = Pipeline(source, target, broker.url, directory, directory.name)
        stack.callback(self._pipeline.stop_all)
        stack.push(self._show_logs)
        self._mirror = CopyMirror(broker.url, directory.name)
        self._chance = random.Random(f"{seed}/{directory.name}")
        self.kills: Counter[str] = Counter()
        self._log_begins: dict[Command, int] = {}
        self._load = Load(self._pipeline, seed)
        stack.callback(self._load.stop)
        self._load.create(rows=90_000)
        source.execute(
            "INSERT INTO documents SELECT i, 0, repeat(md5(i::text), 200)"
            " FROM generate_series(201, 2000) i"
        )
        count_loads(target, self._pipeline.tables())
        self._load.start()
        self._replicator = self._replicate()
        # From here on no envelope is applied, and purged, that the mirror has not seen.
        eventually(self._mirror.create, "the copy stream")
        self._worker = self._work()

    def kill(self, victim: str) -> bool:
        """Kill one at a drawn moment; False when its part in the copy is over."""
        over = self._is_loaded if victim in AT_THE_DESTINATION else self._is_published
        if not self._wait_for_moment(over) or not self._kill(victim, over):
            return False
        self.kills[victim] += 1
        return True

    def prove(self, figures: Figures) -> None:
        """Let everything arrive; compare both sides; count what was done twice."""
        pipeline = self._pipeline
        self._load.stop()
        pipeline.wait_caught_up(limit_s=120)
        pipeline.assert_identical()
        assert (self._worker.stop(), self._replicator.stop()) == (0, 0)
        published = self._mirror.published()
        sent_rows, committed_rows = loaded_rows(pipeline.target)
        assert published.purged_unseen == 0
        kills = self.kills
        at_the_source = kills["copy process"] + LANES * (kills["replicator"] + kills["broker"])
        at_the_destination = at_the_source + kills["copy writer"]
        at_the_destination += LANES * (kills["worker"] + kills["holder"])
        thrown_rows = sent_rows - committed_rows
        print(  # noqa: T201
            f"{dict(kills)}: {published}, {thrown_rows} rows thrown away of {sent_rows}"
        )
        assert published.again_rows <= at_the_source * published.range_rows
        assert thrown_rows <= at_the_destination * published.range_rows
        if not kills["holder"]:
            assert published.renewed_rows == 0
        figures.copies += 1
        figures.ranges += published.ranges
        figures.again += published.again
        figures.again_rows += published.again_rows
        figures.again_allowed += at_the_source
        figures.again_allowed_rows += at_the_source * published.range_rows
        figures.thrown_rows += thrown_rows
        figures.thrown_allowed_rows += at_the_destination * published.range_rows
        figures.renewed_rows += published.renewed_rows

    def _show_logs(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is not None:
            for log in sorted(self._pipeline.directory.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}")  # noqa: T201

    def _replicate(self) -> Command:
        flags = ("--range-size", "8kB", "--max-copy-workers", str(LANES))
        return self._note(self._pipeline.replicate(*flags))

    def _work(self) -> Command:
        return self._note(self._pipeline.worker("--copy-writers", str(LANES)))

    def _note(self, command: Command) -> Command:
        self._log_begins[command] = len(command.log.read_text(errors="replace"))
        return command

    def _wait_for_moment(self, over: Callable[[], bool]) -> bool:
        """Wait for a drawn number of transactions or envelopes; False when it is over before."""
        if self._chance.random() < 0.5:
            self._load.wait_committed(self._chance.randrange(1, MOST_TRANSACTIONS))
        else:
            goal = self._mirror.envelopes() + self._chance.randrange(1, MOST_ENVELOPES)
            eventually(lambda: over() or self._mirror.envelopes() >= goal, "more of the copy")
        return not over()

    def _kill(self, victim: str, over: Callable[[], bool]) -> bool:
        match victim:
            case "replicator":
                self._replicator.kill()
                self._replicator = self._replicate()
            case "worker":
                self._worker.kill()
                self._worker = self._work()
            case "broker":
                # A first start without a broker is an error, not an outage.
                eventually(self._have_begun, "replicator and worker")
                if over():
                    return False
                self._broker.kill()
                self._load.wait_committed(self._chance.randrange(1, MOST_TRANSACTIONS))
                self._broker.start()
            case _:
                found = eventually(lambda: self._find(victim) or over(), f"a {victim}")
                if not isinstance(found, list):
                    return False
                process = self._chance.choice(found)
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    return self._kill(victim, over)  # it went with another one
                psutil.wait_procs([process], timeout=10)
        return True

    def _find(self, victim: str) -> list[psutil.Process]:
        if victim == "copy process":
            return self._replicator.children(f"pgflo {self._pipeline.group} copy ")
        if victim == "copy writer":
            return self._worker.children("copy-writer")
        title = f"pgflo {self._pipeline.group} snapshot"
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if title in " ".join(process.info["cmdline"] or [])
        ]

    def _is_published(self) -> bool:
        self._pipeline.assert_alive()
        return '"copy published"' in self._replicator.log.read_text(errors="replace")

    def _is_loaded(self) -> bool:
        self._pipeline.assert_alive()
        return '"copy complete"' in self._worker.log.read_text(errors="replace")

    def _have_begun(self) -> bool:
        self._pipeline.assert_alive()
        return self._has_said(self._replicator, '"copying"', '"streaming"') and self._has_said(
            self._worker, '"beginning at the group', '"going on where this sink was"'
        )

    def _has_said(self, command: Command, *events: str) -> bool:
        # All that were started with the same arguments write into one log.
        said = command.log.read_text(errors="replace")[self._log_begins[command] :]
        return any(event in said for event in events)


def test_a_copy_survives_whoever_is_killed_and_little_is_done_twice(
    nats_factory: NatsFactory,
    source_server: EmbeddedPostgres,
    target_server: EmbeddedPostgres,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    seed = seed_of_choices()
    chance, figures, kills = random.Random(seed), Figures(), Counter[str]()
    broker = nats_factory()
    victims: list[str] = []
    while kills.total() < ROUNDS:
        with ExitStack() as stack:
            copy = CopyUnderFire(
                stack,
                (source_server, target_server),
                broker,
                tmp_path / f"copy{figures.copies}",
                seed,
            )
            while kills.total() + copy.kills.total() < ROUNDS:
                # Each of them as often as the others, in an order of its own every time.
                victims = victims or chance.sample(VICTIMS, len(VICTIMS))
                if not copy.kill(victims[0]):
                    break
                victims.pop(0)
            copy.prove(figures)
            assert copy.kills, "the copy was over before anything could be killed"
            kills += copy.kills
        asyncio.run(delete_all_streams(broker.url))
    for name, figure in {**vars(figures), **kills}.items():
        record_property(name, figure)
    print(f"{kills.total()} kills {dict(kills)}: {figures}")  # noqa: T201
