"""A snapshot as metrics, in Prometheus' text format.

Upstream: `pgflo.cli.status`. Downstream: the text on stdout, as node_exporter's textfile collector
takes it. Invariants: counters only grow while a group lives: they come from its record, so that a
worker that starts again goes on with them, and one with a new incarnation begins at 0; what is
unknown has no line. Names and labels of all metrics are here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from pgflo.broker.records import RuleRecord
    from pgflo.status.gather import Snapshot

SINK_LABELS = ("group", "sink")
RULE_LABELS = (*SINK_LABELS, "rule", "type", "table", "column", "destination")
"""`column` is empty for a route, `destination` for a rule."""

DROPPING = ("filter", "route")
CHANGING = ("mask", "regex")


class GroupCollector(Collector):
    """Metrics of one group, as a snapshot has them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """Give a family for each name."""
        changes = CounterMetricFamily(
            "pgflo_applied_changes", "Changes that a sink has applied.", labels=SINK_LABELS
        )
        lag_bytes = GaugeMetricFamily(
            "pgflo_lag_bytes", "WAL that a sink has not applied.", labels=SINK_LABELS
        )
        lag_seconds = GaugeMetricFamily(
            "pgflo_lag_seconds", "Age of the oldest commit not applied.", labels=SINK_LABELS
        )
        dropped = CounterMetricFamily(
            "pgflo_rule_dropped_rows", "Rows that a rule or a route kept out.", labels=RULE_LABELS
        )
        changed = CounterMetricFamily(
            "pgflo_rule_changed_rows", "Rows that a rule changed.", labels=RULE_LABELS
        )
        for sink in self._snapshot.sinks:
            of = (self._snapshot.group, sink.name)
            changes.add_metric(of, sink.applied_changes)
            if sink.lag_bytes is not None:
                lag_bytes.add_metric(of, sink.lag_bytes)
            if sink.lag_s is not None:
                lag_seconds.add_metric(of, sink.lag_s)
            for rule in sink.rules:
                labels = (*of, *_labels(rule))
                if rule.kind in DROPPING:
                    dropped.add_metric(labels, rule.dropped_rows)
                elif rule.kind in CHANGING:
                    changed.add_metric(labels, rule.changed_rows)
        return changes, lag_bytes, lag_seconds, dropped, changed


def _labels(rule: RuleRecord) -> tuple[str, ...]:
    return str(rule.number), rule.kind, rule.table, rule.column, rule.destination


def to_prometheus(snapshot: Snapshot) -> str:
    """Write a snapshot's metrics, with a line break at the end."""
    registry = CollectorRegistry()
    registry.register(GroupCollector(snapshot))
    return generate_latest(registry).decode()
