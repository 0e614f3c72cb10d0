"""Rules and routing files: every mistake with file, line and column, all of them at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pgflo.broker.records import ColumnRecord, TableRecord, TableState
from pgflo.config import file
from pgflo.errors import CONFIG_RULES, PgfloError
from pgflo.rules import models
from pgflo.rules.bind import bind, changes, digests
from pgflo.rules.destinations import destined
from pgflo.rules.read import Written, read

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "rules"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

OWN_TYPE = 70000


def table(name: str = "users", *, oid: int = 1, schema: str = "public") -> TableRecord:
    columns = [
        ColumnRecord("id", 23, "integer", -1, 23, category="N"),
        ColumnRecord("email", 25, "text", -1, 25, category="S"),
        ColumnRecord("age", 23, "integer", -1, 23, category="N"),
        ColumnRecord("data", 3802, "jsonb", -1, 3802, category="U"),
        ColumnRecord("mood", OWN_TYPE, "mood", -1, OWN_TYPE, is_enum=True, category="E"),
    ]
    return TableRecord(oid, schema, name, None, columns, ["id"], "d", TableState.READY)


def notes() -> TableRecord:
    columns = [
        ColumnRecord("code", 25, "text", -1, 25, category="S"),
        ColumnRecord("body", 25, "text", -1, 25, category="S"),
        ColumnRecord("size", 23, "integer", -1, 23, category="N"),
        ColumnRecord("at", 1184, "timestamptz", -1, 1184, category="D"),
    ]
    return TableRecord(2, "public", "notes", None, columns, ["code"], "d", TableState.READY)


KINDS = {
    "bool": 16,
    "int2": 21,
    "int4": 23,
    "int8": 20,
    "oid": 26,
    "numeric": 1700,
    "float4": 700,
    "float8": 701,
    "date": 1082,
    "time": 1083,
    "timestamp": 1114,
    "timestamptz": 1184,
    "uuid": 2950,
    "interval": 1186,
    "bytea": 17,
    "text": 25,
}


def kinds() -> TableRecord:
    columns = [ColumnRecord(name, oid, name, -1, oid) for name, oid in KINDS.items()]
    return TableRecord(3, "public", "kinds", None, columns, [], "d", TableState.READY)


def mistakes(rules: str | None, routing: str | None, *tables: TableRecord) -> list[str]:
    with pytest.raises(PgfloError) as caught:
        bind(read(rules, routing), tables)
    assert caught.value.kind is CONFIG_RULES
    return caught.value.detail.replace(f"{DATA}/", "").splitlines()


def test_every_mistake_of_form_is_told_in_its_place() -> None:
    told = mistakes(str(DATA / "bad_rules.yaml"), str(DATA / "bad_routing.yaml"))
    assert told == (DATA / "bad.txt").read_text().splitlines()


def test_everything_that_does_not_fit_the_group_is_told_at_once() -> None:
    rules, routing = str(DATA / "unfit_rules.yaml"), str(DATA / "unfit_routing.yaml")
    told = mistakes(rules, routing, table(), notes())
    assert told == (DATA / "unfit.txt").read_text().splitlines()


def test_a_constant_that_is_no_value_of_its_type_is_told_for_every_type() -> None:
    told = mistakes(str(DATA / "unfit_values.yaml"), None, kinds())
    assert told == (DATA / "unfit_values.txt").read_text().splitlines()


WHOLES = (DATA / "wholes.txt").read_text().splitlines()


@pytest.mark.parametrize("line", WHOLES, ids=[line.partition(" -> ")[0] for line in WHOLES])
def test_what_is_no_rules_or_routing_file_is_told_with_its_place(tmp_path: Path, line: str) -> None:
    written, _, told = line.partition(" -> ")
    kind, _, text = written.partition(": ")
    path = tmp_path / "it"
    path.write_bytes(text.encode().decode("unicode_escape").encode("latin1"))
    files = (str(path), None) if kind == "rules" else (None, str(path))
    assert [each.replace(str(path), "it") for each in mistakes(*files)] == [told]


def test_a_file_that_cannot_be_read_or_is_huge_is_told(tmp_path: Path) -> None:
    assert mistakes(f"{tmp_path}/no.yaml", None) == [
        f"cannot read {tmp_path}/no.yaml: No such file or directory"
    ]
    path = tmp_path / "r.yaml"
    path.write_text("#" * (1024 * 1024 + 1))
    assert mistakes(str(path), None) == [f"{path} is larger than 1 MB"]
    # Ten lines that stand for ten billion values
    lines = ["- &a0 [x]", *(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11))]
    path.write_text("\n".join(lines))
    (told,) = mistakes(str(path), None)
    assert told.endswith(": aliases make too much of this")


def test_a_name_means_the_table_of_public_else_the_only_one_of_the_group(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("tables:\n  users: [{type: exclude_column, column: age}]\n")
    written = read(str(path), None)
    own = table(schema="app")
    assert bind(written, [own]).spec.rules[0].table == ("app", "users")
    both = [own, table(schema="public", oid=2)]
    assert bind(written, both).spec.rules[0].table == ("public", "users")
    others = [own, table(schema="web", oid=2)]
    assert mistakes(str(path), None, *others) == [f"{path}:2:11: users may be app.users, web.users"]


def test_a_rule_for_every_table_must_concern_one(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("- {type: exclude_column, column: agee}\n")
    assert mistakes(str(path), None, table()) == [
        f'{path}:1:3: no table of the group has a column "agee"; did you mean "age"?'
    ]


def test_scalars_are_constants_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "- {type: filter, column: email, parameters: {operator: eq, value: 007}}\n"
        "- {type: filter, column: email, parameters: {operator: ne, value: 'null'}}\n"
        "- {type: filter, column: email, parameters: {operator: ne, value: null}}\n"
        "- {type: filter, column: email, parameters: {operator: eq, value: ''}}\n"
    )
    rules = bind(read(str(path), None), [table()]).spec.rules
    assert [rule.value for rule in rules] == ["007", "null", None, ""]


def test_a_digest_tells_what_is_done_and_not_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    routing = (EXAMPLES[0].parent / "split.yaml").read_text()
    orders = [replace(table("orders"), columns=[ColumnRecord("region", 25, "text", -1, 25)])]
    told = []
    for text in (routing, f"# moved\n{routing}", routing.replace("value: eu", "value: us")):
        path.write_text(text)
        told.append(digests(bind(read(None, str(path)), orders), orders)["public.orders"])
    assert told[0] == told[1] != told[2]
    assert changes(told[0], told[1]) == []
    assert changes(told[0], told[2]) == [
        "route public.orders_eu changed",
        "route public.orders_other changed",
    ]
    assert changes([], told[0][:1]) == [f"{told[0][0].rpartition(' ')[0]} added"]
    assert changes(told[0][:1], []) == [f"{told[0][0].rpartition(' ')[0]} removed"]
    assert changes(told[0], told[0][::-1]) == ["order changed"]


def test_routes_give_each_destination_its_names_and_a_number_of_its_own() -> None:
    path = str(ROOT / "examples" / "duplicate.yaml")
    orders = table("orders")
    bound = bind(read(None, path), [orders])
    home, archive = destined(orders, bound)
    assert (home.oid, home.label, archive.label) == (1, "public.orders", "public.orders_archive")
    assert archive.oid not in (0, 1)
    assert destined(orders, bind(read(None, path), [orders]))[1].oid == archive.oid


def test_a_configuration_file_names_rules_or_holds_them(tmp_path: Path) -> None:
    path = tmp_path / "pgflo.yaml"
    path.write_text(
        "group: g\n"
        "rules: rules.yaml\n"
        "sinks:\n"
        "  shop:\n"
        "    to: postgres://x/y\n"
        "    rules:\n"
        "      tables:\n"
        "        users: [{type: exclude_column, column: age}]\n"
        "    routing:\n"
        "      a: {source_table: users, destination_table: b}\n"
    )
    config = file.read(path)
    values = file.for_sink(config, "shop").values
    assert config.values["rules-config"] == "rules.yaml"
    written = read(str(values["rules-config"]), str(values["routing-config"]))
    (rule,), (route,) = written.rules, written.routes
    assert (str(rule.place), str(route.place)) == (f"{path}:8:17", f"{path}:10:7")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_have_no_mistake(path: Path) -> None:
    is_rules = path.stem in ("rules", "multi_tenant")
    written = read(str(path), None) if is_rules else read(None, str(path))
    assert written != Written()


def test_the_schema_for_editors_knows_every_key() -> None:
    schema = json.dumps(models.schema())
    for key in ("allow_empty_deletes", "mask_char", "column_mappings", "exclude_column", "when"):
        assert f'"{key}"' in schema
