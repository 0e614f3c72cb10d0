"""A snapshot in Prometheus' text format, for whatever collects it.

Upstream: `pgflo.cli.status`. Downstream: the text on stdout, as node_exporter's textfile collector
takes it. Invariants: counters only grow while a group lives: they come from its record, so that a
worker that starts again goes on with them, and one with a new incarnation begins at 0; what is
unknown has no line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgflo.status.gather import SinkLook, Snapshot


@dataclass(slots=True)
class _Family:
    """All values of one name."""

    name: str
    kind: str
    text: str
    lines: list[str] = field(default_factory=list)

    def add(self, value: float | None, **labels: str) -> None:
        if value is not None:
            pairs = ",".join(f'{name}="{_escaped(label)}"' for name, label in labels.items())
            self.lines.append(f"{self.name}{{{pairs}}} {value}")

    def told(self) -> Iterator[str]:
        if self.lines:
            yield f"# HELP {self.name} {self.text}"
            yield f"# TYPE {self.name} {self.kind}"
            yield from self.lines


def to_prometheus(snapshot: Snapshot) -> str:
    """Write counts of sinks and rules, with a line break at the end."""
    changes = _Family("pgflo_applied_changes_total", "counter", "Changes that a sink has applied.")
    lag_bytes = _Family("pgflo_lag_bytes", "gauge", "WAL that a sink has not applied.")
    lag_seconds = _Family("pgflo_lag_seconds", "gauge", "Age of the oldest commit not applied.")
    dropped = _Family(
        "pgflo_rule_dropped_rows_total", "counter", "Rows that a rule or a route kept out."
    )
    changed = _Family("pgflo_rule_changed_rows_total", "counter", "Rows that a rule changed.")
    for sink in snapshot.sinks:
        of = {"group": snapshot.group, "sink": sink.name}
        changes.add(sink.applied_changes, **of)
        lag_bytes.add(sink.lag_bytes, **of)
        lag_seconds.add(sink.lag_s, **of)
        for labels, dropped_rows, changed_rows in _rules(sink):
            dropped.add(dropped_rows, **of, **labels)
            changed.add(changed_rows, **of, **labels)
    families = (changes, lag_bytes, lag_seconds, dropped, changed)
    return "".join(f"{line}\n" for family in families for line in family.told())


def _rules(sink: SinkLook) -> Iterator[tuple[dict[str, str], int | None, int | None]]:
    """Give each rule's labels and counts; None for what it never does."""
    for rule in sink.rules:
        labels = {
            "rule": str(rule.number),
            "type": rule.kind,
            "table": rule.table,
            "column": rule.column,
            "destination": rule.destination,
        }
        drops, changes = rule.kind in ("filter", "route"), rule.kind in ("mask", "regex")
        yield (
            {name: label for name, label in labels.items() if label},
            rule.dropped_rows if drops else None,
            rule.changed_rows if changes else None,
        )


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
