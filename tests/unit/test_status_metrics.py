"""What `pgflo status --prometheus` prints."""

from __future__ import annotations

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
EXPECTED = r"""# HELP pgflo_applied_changes_total Changes that a sink has applied.
# TYPE pgflo_applied_changes_total counter
pgflo_applied_changes_total{group="shop",sink="postgres"} 12
# HELP pgflo_lag_seconds Age of the oldest commit not applied.
# TYPE pgflo_lag_seconds gauge
pgflo_lag_seconds{group="shop",sink="postgres"} 0.5
# HELP pgflo_rule_dropped_rows_total Rows that a rule or a route kept out.
# TYPE pgflo_rule_dropped_rows_total counter
pgflo_rule_dropped_rows_total{RULE="1",type="filter",table="public.odd \"t\"",column="age"} 0
pgflo_rule_dropped_rows_total{RULE="4",type="route",table="public.odd \"t\"",destination="crm.people"} 0
# HELP pgflo_rule_changed_rows_total Rows that a rule changed.
# TYPE pgflo_rule_changed_rows_total counter
pgflo_rule_changed_rows_total{RULE="2",type="mask",table="*",column="email"} 0
""".replace("{RULE=", '{group="shop",sink="postgres",rule=')  # noqa: E501 - a line is a line


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
    assert to_prometheus(snapshot) == EXPECTED
