"""`python -m benches.e2e`: print pgflo against native replication, round by round.

Exit 1 when a median misses its bar, so that a slower build cannot pass unseen.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benches.e2e import backlog, bigtx, copy, latency, profile, roles, ruled, sinks, usage
from benches.e2e.bars import Verdicts, say
from benches.e2e.bed import Bed, servers
from benches.e2e.loads import mixed_load, pgbench_load
from benches.e2e.pacing import Schedule

if TYPE_CHECKING:
    from benches.e2e.loads import Load
    from benches.e2e.observe import Piece
    from benches.e2e.usage import Costs

WHAT = ("copy", "copy8", "bigcopy", "pgbench", "mixed", "rules", "sinks", "latency", "bigtx")


@dataclass(frozen=True)
class Sizes:
    """How much of everything; each field is an option."""

    rounds: int = 3
    rows: int = 2_000_000
    workers: int = 8
    scale: int = 50
    clients: int = 8
    seconds: int = 60
    transactions: int | None = None
    """Of pgbench, in place of `seconds`."""
    mixed_transactions: int = 10_000
    rate: int = 500
    latency_seconds: int = 20
    bigtx_rows: int = 10_000_000
    bigcopy_mb: int = 5_000


FULL = Sizes()
BIGCOPY_SMALL_PART = 10
SINKS_SMALL_PART = 2
"""The backlog that memory is compared with is so many times smaller."""
SHORT = Sizes(
    rounds=1,
    rows=200_000,
    workers=2,
    scale=5,
    transactions=2_000,
    mixed_transactions=500,
    latency_seconds=5,
    bigtx_rows=200_000,
    bigcopy_mb=100,
)
"""To see that everything runs. Starting pgflo is most of its time then: ratios say nothing."""


def _costs(contender: str, piece: Piece, changes: int) -> str:
    return f"    {contender}\n{usage.lines(piece.costs, changes)}"


def _say_over_rounds(rounds: list[tuple[Costs, int]]) -> None:
    if len(rounds) > 1:
        say(f"  pgflo over all rounds\n{usage.over_rounds(rounds)}")


def run_copy(bed: Bed, data: copy.Data, sizes: Sizes, verdicts: Verdicts) -> None:
    """Copy the same tables by turns and print each round."""
    say(f"copy, {len(data.tables)} x {data.rows} rows, {sizes.workers} copy workers a table")
    copy.prepare(bed, data)
    ratios, brought, costs = [], [], []
    for number in range(1, sizes.rounds + 1):
        if number % 2:
            native = copy.native_round(bed, data)
            ours = copy.pgflo_round(bed, data, sizes.workers, number)
        else:
            ours = copy.pgflo_round(bed, data, sizes.workers, number)
            native = copy.native_round(bed, data)
        ratios.append(native.seconds / ours.seconds)
        costs.append((ours.costs, data.all_rows))
        native_s, pgflo_s = native.seconds, ours.seconds
        say(f"  round {number}: native {native_s:.2f} s, pgflo {pgflo_s:.2f} s, data equal")
        say(_costs("native", native, data.all_rows))
        say(_costs("pgflo", ours, data.all_rows))
        whole = copy.pgflo_round(
            bed, data, sizes.workers, sizes.rounds + number, brings_schema=True
        )
        brought.append(native.seconds / whole.seconds)
        say(f"    pgflo with --target-sync-schema {whole.seconds:.2f} s, data equal")
    _say_over_rounds(costs)
    verdicts.ratio(data.name, ratios)
    median = statistics.median(brought)
    say(f"  {data.name}: median {median:.2f} x native with the schema brought as well")


def run_bigcopy(bed: Bed, sizes: Sizes, verdicts: Verdicts) -> None:
    """Copy a table of a tenth of the size, then the whole one: memory has to stay."""
    peaks_mb = []
    for size_mb in (sizes.bigcopy_mb // BIGCOPY_SMALL_PART, sizes.bigcopy_mb):
        data = copy.notes(f"bigcopy_{size_mb}", size_mb * usage.MB)
        copy.prepare(bed, data)
        piece = copy.pgflo_round(bed, data, sizes.workers, 1)
        rate_mb_s = size_mb / piece.seconds
        say(f"one table of {size_mb} MB: {piece.seconds:.2f} s ({rate_mb_s:.0f} MB/s), data equal")
        say(usage.lines(piece.costs, data.all_rows))
        peaks_mb.append(_peaks_mb(piece))
    verdicts.memory("bigcopy", peaks_mb[1])
    verdicts.flat("bigcopy", *peaks_mb)


def _peaks_mb(piece: Piece) -> dict[str, float]:
    return {
        role: cost.peak_bytes / usage.MB
        for role, cost in piece.costs.items()
        if roles.is_pgflo(role)
    }


def run_backlog(bed: Bed, name: str, load: Load, rounds: int, verdicts: Verdicts) -> None:
    """Let both empty the same backlog and print each round."""
    say(f"backlog, {load.name}")
    ratios, costs = [], []
    for number in range(1, rounds + 1):
        result = backlog.one_round(bed, load, number)
        native_s, pgflo_s = result.native.seconds, result.pgflo.seconds
        ratios.append(native_s / pgflo_s)
        costs.append((result.pgflo.costs, result.changes))
        say(
            f"  round {number}: {result.changes} changes,"
            f" native {native_s:.2f} s ({result.changes / native_s:.0f}/s),"
            f" pgflo {pgflo_s:.2f} s ({result.changes / pgflo_s:.0f}/s), data equal"
        )
        say(_costs("native", result.native, result.changes))
        say(_costs("pgflo", result.pgflo, result.changes))
    _say_over_rounds(costs)
    verdicts.ratio(name, ratios)


def run_rules(bed: Bed, load: Load, rounds: int, verdicts: Verdicts) -> None:
    """Empty the same backlog without rules and with them, and print each round."""
    say(f"backlog, {load.name}, without rules and with a filter, a mask and a regular expression")
    ratios = []
    for number in range(1, rounds + 1):
        result = ruled.one_round(bed, load, number)
        plain_s, ruled_s = result.plain.seconds, result.ruled.seconds
        ratios.append(plain_s / ruled_s)
        say(
            f"  round {number}: {result.changes} changes, without rules {plain_s:.2f} s, with rules"
            f" {ruled_s:.2f} s ({result.changes / ruled_s:.0f}/s)"
        )
        say(_costs("without rules", result.plain, result.changes))
        say(_costs("with rules", result.ruled, result.changes))
    verdicts.ratio("rules", ratios, than="without rules")


def run_sinks(bed: Bed, sizes: Sizes, verdicts: Verdicts) -> None:
    """Let each sink of JSON lines empty the same backlog; a small one before tells its memory."""
    transactions = sizes.mixed_transactions
    small = mixed_load(transactions=max(1, transactions // SINKS_SMALL_PART))
    load = mixed_load(transactions=transactions)
    say(f"JSON lines, {load.name}; before that {small.name}, for memory alone")
    before = sinks.one_round(bed, small, 0).peaks_mb()
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(1, sizes.rounds + 1):
        result = sinks.one_round(bed, load, number)
        json_mb = result.json_bytes / usage.MB
        say(f"  round {number}: {result.changes} changes, {json_mb:.0f} MB of JSON, data equal")
        say(f"    cat of the lines into a file {result.cat_s:.2f} s")
        for name, piece in result.pieces.items():
            rate = result.changes / piece.seconds
            rates[name].append(rate)
            say(f"    {name} {piece.seconds:.2f} s ({rate:.0f}/s)")
            say(usage.lines(piece.costs, result.changes))
        verdicts.flat("sinks", before, result.peaks_mb())
    for name, each in rates.items():
        verdicts.rate(name, each)


def run_latency(bed: Bed, sizes: Sizes, verdicts: Verdicts) -> None:
    """Let both follow the same light load and print each round."""
    schedule = Schedule(0, sizes.rate, sizes.latency_seconds)
    say(f"latency, {schedule.rate_per_s} single inserts a second for {schedule.seconds} s")
    rounds, costs = [], []
    for number in range(1, sizes.rounds + 1):
        result = latency.one_round(bed, schedule, number)
        rounds.append(result.pgflo)
        costs.append((result.pgflo.costs, result.changes))
        say(f"  round {number}: native {result.native}\n           pgflo  {result.pgflo}")
        say(f"    native\n{usage.lines(result.native.costs, result.changes)}")
        say(f"    pgflo\n{usage.lines(result.pgflo.costs, result.changes)}")
    _say_over_rounds(costs)
    verdicts.latency({"p50": [one.p50_ms for one in rounds], "p99": [one.p99_ms for one in rounds]})


def run_bigtx(bed: Bed, sizes: Sizes, verdicts: Verdicts) -> None:
    """Stream one transaction of many rows."""
    say(
        f"one transaction of {sizes.bigtx_rows} rows, {bigtx.WAL_SENDER_TIMEOUT} of silence allowed"
    )
    outcome = bigtx.run(bed, sizes.bigtx_rows)
    piece = outcome.piece
    say(
        f"  pgflo {piece.seconds:.2f} s after the commit"
        f" ({sizes.bigtx_rows / piece.seconds:.0f} rows/s), data equal,"
        f" a reader looked {outcome.looks} times"
    )
    say(usage.lines(piece.costs, sizes.bigtx_rows))
    verdicts.memory("bigtx", _peaks_mb(piece))
    verdicts.promise("bigtx: one connection to the source throughout", kept=outcome.connection_held)


def _parse() -> tuple[argparse.Namespace, Sizes]:
    parser = argparse.ArgumentParser(prog="benches.e2e", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"of {', '.join(WHAT)}; else all")
    parser.add_argument("--short", action="store_true", help="small sizes: only see that it runs")
    parser.add_argument("--shards", type=int, default=1, help="of every pgflo worker")
    parser.add_argument("--profile", action="store_true", help="wait events, costliest statements")
    for field in dataclasses.fields(Sizes):
        full, short = getattr(FULL, field.name), getattr(SHORT, field.name)
        text = f"{full or 'as many as fit'}, with --short {short}"
        parser.add_argument("--" + field.name.replace("_", "-"), type=int, metavar="N", help=text)
    options = parser.parse_args()
    for what in options.what:
        if what not in WHAT:
            parser.error(f"{what!r} is none of {', '.join(WHAT)}")
    sizes = SHORT if options.short else FULL
    if options.seconds is not None:
        sizes = dataclasses.replace(sizes, transactions=None)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Sizes)}
    given = {name: value for name, value in given.items() if value is not None}
    return options, dataclasses.replace(sizes, **given)


def main() -> int:
    """Run what was asked for and return the exit code."""
    options, sizes = _parse()
    wanted = options.what or list(WHAT)
    verdicts = Verdicts()
    with servers(shards=options.shards, profile=options.profile) as bed:
        if bed.profile:
            profile.make_room(bed)
        with bed.connect(bed.source, "postgres") as conn:
            version = conn.info.server_version
        say(f"PostgreSQL {version}, {platform.machine()}, default durability, shards: {bed.shards}")
        say("memory: peak RSS of the largest process; private memory of database servers'")
        if "copy" in wanted:
            run_copy(bed, copy.orders("copy", 1, sizes.rows), sizes, verdicts)
        if "copy8" in wanted:
            run_copy(bed, copy.orders("copy8", 8, sizes.rows), sizes, verdicts)
        if "bigcopy" in wanted:
            run_bigcopy(bed, sizes, verdicts)
        if "pgbench" in wanted:
            load = pgbench_load(
                scale=sizes.scale,
                clients=sizes.clients,
                seconds=sizes.seconds,
                transactions=sizes.transactions,
            )
            run_backlog(bed, "pgbench", load, sizes.rounds, verdicts)
        if "mixed" in wanted:
            mixed = mixed_load(transactions=sizes.mixed_transactions)
            run_backlog(bed, "mixed", mixed, sizes.rounds, verdicts)
        if "rules" in wanted:
            mixed = mixed_load(transactions=sizes.mixed_transactions)
            run_rules(bed, mixed, sizes.rounds, verdicts)
        if "sinks" in wanted:
            run_sinks(bed, sizes, verdicts)
        if "latency" in wanted:
            run_latency(bed, sizes, verdicts)
        if "bigtx" in wanted:
            run_bigtx(bed, sizes, verdicts)
    return verdicts.finish()


if __name__ == "__main__":
    sys.exit(main())
