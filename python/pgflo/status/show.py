"""A snapshot for people and for programs.

Upstream: `pgflo.cli.status`. Downstream: a terminal, or JSON on stdout.
Invariant: both forms come from the same `Snapshot`; keys of the JSON are its field names.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import orjson
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pgflo.status.gather import CopyLook, Snapshot, TableLook

KIB = 1024
UNITS = ("B", "kB", "MB", "GB", "TB")


def to_json(snapshot: Snapshot) -> str:
    """Give the snapshot as one line of JSON."""
    return orjson.dumps(dataclasses.asdict(snapshot)).decode()


def size(count: float | None) -> str:
    """Write bytes for people, as 12.3 MB."""
    if count is None:
        return "?"
    for unit in UNITS[:-1]:
        if count < KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= KIB
    return f"{count:.1f} {UNITS[-1]}"


def seconds(count: float | None) -> str:
    """Write a time for people."""
    if count is None:
        return "?"
    return f"{count:.1f} s" if count < 120 else f"{count / 60:.0f} min"


def duration(count: float | None) -> str:
    """Write how long something takes."""
    if count is None:
        return "?"
    if count < 60:
        return f"{count:.0f} s"
    minutes, rest = divmod(round(count), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def rate(count: float | None) -> str:
    """Write rows per second; nothing for what is not known."""
    return "" if count is None else f"{count:,.0f}"


def of_about(rows: int, estimated_rows: int | None) -> str:
    """Write how many rows of how many."""
    if estimated_rows is None or estimated_rows <= rows:
        return f"{rows:,}"
    return f"{rows:,} of ~{estimated_rows:,}"


def draw(snapshot: Snapshot) -> RenderableType:
    """Draw the snapshot for a terminal."""
    parts: list[RenderableType] = [_head(snapshot)]
    if snapshot.sinks:
        parts.append(_sinks(snapshot))
        parts += [
            Text(f"{sink.name} waits for {sink.blocked_by}", style="yellow")
            for sink in snapshot.sinks
            if sink.blocked_by
        ]
        if any(sink.rules for sink in snapshot.sinks):
            parts.append(_rules(snapshot))
        parts += [
            Text(
                f"{sink.name} has made {sink.schema_parts_done} of {sink.schema_parts}"
                " indexes, constraints and triggers"
            )
            for sink in snapshot.sinks
            if sink.schema_parts_done < sink.schema_parts
        ]
    else:
        parts.append(Text("no sink has registered: start `pgflo worker postgres`", style="yellow"))
    copied = [table for table in snapshot.tables if table.ranges]
    if copied:
        parts.append(_tables(copied, [sink.name for sink in snapshot.sinks]))
    if snapshot.copy is not None:
        parts.append(_copy(snapshot.copy))
        parts += [
            Text(f"waiting at the source for the end of the copy: {session}", style="yellow")
            for session in snapshot.copy.queued
        ]
    return Group(*parts)


def _head(snapshot: Snapshot) -> RenderableType:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("group", f"{snapshot.group}  ({snapshot.mode}, database {snapshot.database})")
    table.add_row("phase", snapshot.phase)
    if snapshot.stream is not None:
        stream = snapshot.stream
        table.add_row(
            "published",
            f"up to {stream.end_lsn or snapshot.start_lsn}; the broker holds"
            f" {stream.envelopes} envelopes, {size(stream.bytes)} of {size(stream.max_bytes)}",
        )
    holder = snapshot.holder
    if holder is not None:
        table.add_row(
            "snapshot",
            f"with its locks held by session {holder.backend_pid} of the source"
            f" (process {holder.pid} on {holder.host})",
        )
    source = snapshot.source
    if source is not None and source.slot_active is None:
        table.add_row("slot", f"{snapshot.slot} does not exist")
    elif source is not None:
        active = "active" if source.slot_active else "not active"
        table.add_row(
            "slot",
            f"{snapshot.slot} is {active}, confirmed {source.confirmed_lsn}, WAL"
            f" {source.wal_status}, keeps {size(source.retained_bytes)}",
        )
        table.add_row("source", f"at {source.current_lsn}")
    return table


def _sinks(snapshot: Snapshot) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("sink", "phase", "applied up to", "lag", "", "changes"):
        table.add_column(title, justify="right" if title in ("lag", "", "changes") else "left")
    for sink in snapshot.sinks:
        table.add_row(
            sink.name,
            sink.phase,
            sink.end_lsn,
            size(sink.lag_bytes),
            seconds(sink.lag_s),
            f"{sink.applied_changes:,}",
        )
        for number, shard in enumerate(sink.shards):
            table.add_row(f"  shard {number}", "", shard.end_lsn, size(shard.lag_bytes))
    return table


def _rules(snapshot: Snapshot) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("sink", "rule or route", "rows dropped", "rows changed"):
        table.add_column(title, justify="right" if title.startswith("rows") else "left")
    for sink in snapshot.sinks:
        for rule in sink.rules:
            what = f"{rule.table} → {rule.destination}"
            if rule.kind != "route":
                what = f"{rule.table}.{rule.column} {rule.kind}"
            counts = (f"{rule.dropped_rows:,}", f"{rule.changed_rows:,}")
            table.add_row(sink.name, f"{what} ({rule.place})", *counts)
    return table


def _tables(tables: list[TableLook], sinks: list[str]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("table")
    table.add_column("copy")
    for title in ("ranges", "copying", "rows", "size", "rows/s", "left"):
        table.add_column(title, justify="right")
    for sink in sinks:
        table.add_column(f"applied by {sink}", justify="right")
    for one in tables:
        is_done = one.published_ranges >= one.ranges
        table.add_row(
            f"{one.schema}.{one.name}",
            one.state,
            f"{one.published_ranges:,}/{one.ranges:,}",
            f"{one.copying_ranges:,}",
            of_about(one.copied_rows, one.estimated_rows),
            size(one.copied_bytes),
            rate(one.rows_per_s),
            "" if is_done or one.eta_s is None else duration(one.eta_s),
            *(f"{one.applied.get(sink, 0):,}" for sink in sinks),
        )
    return table


def _copy(copy: CopyLook) -> RenderableType:
    """Sum the tables up."""
    words = [
        f"{100 * copy.fraction:.0f} %" if copy.fraction < 1 else "copy published",
        f"{copy.tables_done:,} of {copy.tables:,} tables",
        f"{copy.ranges_done:,} of {copy.ranges:,} ranges",
        f"{of_about(copy.rows, copy.estimated_rows)} rows",
        size(copy.bytes),
    ]
    if copy.rows_per_s is not None:
        words.append(f"{copy.rows_per_s:,.0f} rows/s, {size(copy.bytes_per_s)}/s")
    words.append(duration(copy.seconds))
    if copy.eta_s:
        words.append(f"{duration(copy.eta_s)} left")
    return Text("  ".join(words), style="bold")
