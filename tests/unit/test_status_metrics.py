"""What `pgflo status --prometheus` prints."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from pgflo.rules.spec import OPERATIONS, Route, Rule, Spec
from pgflo.status.gather import SinkLook, Snapshot
from pgflo.status.metrics import to_prometheus

T = ("public", 'odd "t"')
SPEC = Spec(
    rules=(
        Rule("rules.yaml:3:7", T, "age", OPERATIONS, "filter", "gte", "18"),
        Rule("rules.yaml:4:7", None, "email", OPERATIONS, "mask"),
        Rule("rules.yaml:5:7", T, "ssn", OPERATIONS, "exclude_column"),
    ),
    routes=(Route("routing.yaml:1:1", T, ("crm", "people"), (), OPERATIONS, ()),),
)
SINK = {"group": "shop", "sink": "postgres"}
FILTER = {"rule": "1", "type": "filter", "table": 'public.odd "t"', "column": "age"}
MASK = {"rule": "2", "type": "mask", "table": "*", "column": "email"}
ROUTE = {"rule": "4", "type": "route", "table": 'public.odd "t"', "destination": "crm.people"}
EXPECTED = [
    ("pgflo_applied_changes_total", SINK, 12),
    ("pgflo_lag_seconds", SINK, 0.5),
    ("pgflo_rule_dropped_rows_total", SINK | FILTER | {"destination": ""}, 0),
    ("pgflo_rule_dropped_rows_total", SINK | ROUTE | {"column": ""}, 0),
    ("pgflo_rule_changed_rows_total", SINK | MASK | {"destination": ""}, 0),
]


def test_counts_are_told_by_rule_and_what_is_unknown_is_not_told() -> None:
    sink = SinkLook(
        name="postgres",
        kind="postgres",
        phase="streaming",
        end_lsn="0/0",
        commit_lsn="0/0",
        ordinal=0,
        lag_bytes=None,
        lag_s=0.5,
        applied_changes=12,
        blocked_by="",
        schema_parts=0,
        schema_parts_done=0,
        updated_at="",
        rules=SPEC.counted,
        shards=[],
    )
    snapshot = Snapshot(
        group="shop",
        mode="stream",
        phase="streaming",
        incarnation="i",
        database="d",
        slot="s",
        start_lsn="0/0",
        final_lsn=None,
        source=None,
        stream=None,
        sinks=[sink],
    )
    families = text_string_to_metric_families(to_prometheus(snapshot))
    told = [(of.name, of.labels, of.value) for family in families for of in family.samples]
    assert told == EXPECTED
