"""Configuration files: every mistake with file and line, all at once, and never a value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgflo.config import file
from pgflo.config.options import ALL
from pgflo.errors import CONFIG, PgfloError

if TYPE_CHECKING:
    from pathlib import Path


def read(tmp_path: Path, text: str) -> file.ConfigFile:
    """Read a text as a configuration file."""
    path = tmp_path / "pgflo.yaml"
    path.write_text(text)
    return file.read(path)


def mistakes(tmp_path: Path, text: str) -> list[str]:
    """Read a wrong file and give what is said about it, without the directory."""
    with pytest.raises(PgfloError) as caught:
        read(tmp_path, text)
    assert caught.value.kind is CONFIG
    return caught.value.detail.replace(f"{tmp_path}/", "").splitlines()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("grop: a", 'pgflo.yaml:1: unknown key "grop"; did you mean "group"?'),
        (
            "a:\n\ncopy_and_stream: 1",
            'unknown key "copy_and_stream"; did you mean "copy-and-stream"?',
        ),
        (
            "source:\n  prot: 1",
            'pgflo.yaml:2: unknown key "source.prot"; did you mean "source.port"?',
        ),
        ("nats: {ulr: x}", 'unknown key "nats.ulr"; did you mean "nats.url"?'),
        ("sinks: {a: {too: x}}", 'unknown key "sinks.a.too"; did you mean "sinks.a.to"?'),
        ("sinks: {a: {group: x}}", 'unknown key "sinks.a.group"'),
        ("zzzzz: 1", 'pgflo.yaml:1: unknown key "zzzzz"'),
        ("host: a\nhost: b", "pgflo.yaml:2: host stands here again, first in line 1"),
        ("host: a\nsource: {host: b}", "source.host is set twice: line 1 has the same setting"),
        ("host:", "pgflo.yaml:1: host has no value"),
        ("host: [a, b]", "pgflo.yaml:1: host needs a single value"),
        ("nats: fast", "nats needs keys of its own: url"),
        ("- a", "pgflo.yaml:1: the file must hold `key: value` lines"),
        ("a: [", "pgflo.yaml:1: expected the node content"),
        ("host: ${NOT_SET_ANYWHERE}", "the environment has no NOT_SET_ANYWHERE"),
        ("password: file:///does/not/exist", "cannot read the secret /does/not/exist"),
        ("sinks: [a]", "sinks needs an entry"),
        ("sinks: {a: x}", "sinks.a needs keys"),
        ("restart: true", 'unknown key "restart"'),
    ],
)
def test_a_mistake_is_told_with_its_line_and_a_suggestion(
    text: str, told: str, tmp_path: Path
) -> None:
    assert any(told in line for line in mistakes(tmp_path, text))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    assert len(mistakes(tmp_path, "hots: a\nport:\nnats:\n  ulr: b\nuser: c\nuser: d\n")) == 4


def test_one_file_serves_replicator_and_worker(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "group: shop\nhost: db1\ntarget-host: db2\ncopy-and-stream: true\nepoch-bytes: 1MB\n",
    )
    assert config.values["host"] == "db1"
    assert config.values["target-host"] == "db2"


def test_scalars_stay_what_was_written(tmp_path: Path) -> None:
    text = "password: 007\nuser: no\nhost: 1e3\ndbname: '${{}'\nschema: 2026-11-23\n"
    config = read(tmp_path, text.replace("${{}", "$${X}"))
    assert config.values == {
        "password": "007",
        "user": "no",
        "host": "1e3",
        "dbname": "${X}",
        "schema": "2026-11-23",
    }


def test_variables_and_secret_files_are_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_HOST", "db1")
    (tmp_path / "secret").write_text("pa: ss'\n")
    config = read(
        tmp_path,
        f"host: pre-${{DB_HOST}}.local\npassword: file://{tmp_path}/secret\n"
        f'nats-creds: file://{tmp_path}/secret\ntables: [a, \'${{DB_HOST}}\', "\\"Odd.Name\\""]\n',
    )
    assert config.values["host"] == "pre-db1.local"
    assert config.values["password"] == "pa: ss'"  # noqa: S105
    assert config.values["nats-creds"] == f"{tmp_path}/secret"
    assert config.values["tables"] == ("a", "db1", '"Odd.Name"')


def test_a_section_and_a_flag_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    flat = read(tmp_path, "copy: true\nsource: postgres://a/b\ntarget: postgres://c/d\n")
    assert flat.values == {
        "copy": "true",
        "source": "postgres://a/b",
        "target": "postgres://c/d",
    }
    nested = read(tmp_path, "copy: {range-size: 1MB}\nsource: {dsn: x}\ntarget: {host: y}\n")
    assert nested.values == {"range-size": "1MB", "source": "x", "target-host": "y"}


SINKS = """
epoch-bytes: 1MB
target: {host: shared, user: writer}
sinks:
  crm: {to: "postgres://crm/d", epoch-bytes: 2MB}
  lake: {batch-size: 5}
"""


def test_a_sink_entry_lies_over_the_file_and_does_not_mix_destinations(tmp_path: Path) -> None:
    config = read(tmp_path, SINKS)
    crm = file.for_sink(config, "crm").values
    assert crm == {"epoch-bytes": "2MB", "target": "postgres://crm/d", "sink": "crm"}
    lake = file.for_sink(config, "lake").values
    assert lake["target-host"] == "shared"
    assert lake["batch-size"] == "5"


def test_a_sink_must_be_named_when_there_are_several(tmp_path: Path) -> None:
    config = read(tmp_path, SINKS)
    with pytest.raises(PgfloError, match="several sinks: crm, lake"):
        file.for_sink(config, None)
    with pytest.raises(PgfloError, match="no sink other"):
        file.for_sink(config, "other")
    only = read(tmp_path, "sinks: {crm: {to: x}}")
    assert file.for_sink(only, None).values["sink"] == "crm"


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(PgfloError, match="there is no configuration file"):
        file.find(str(tmp_path / "none.yaml"))


CANARY = "canary4711"
ODD = [
    f"password: *{CANARY}",
    f"password: @{CANARY}",
    f"password: {CANARY}: x",
    f"password: [{CANARY}",
    f"password: {{a: {CANARY}}}",
    f"password: &{CANARY}",
    f"password: %{CANARY}",
    f"source: {{password: {CANARY}, password: {CANARY}}}",
    f"port: 1\nsource: {{password: {CANARY}, port: 2}}",
]


@pytest.mark.parametrize("text", ODD)
def test_a_password_that_breaks_the_file_is_not_shown(text: str, tmp_path: Path) -> None:
    assert CANARY not in "\n".join(mistakes(tmp_path, text))


KEYS = st.sampled_from([option.name for option in ALL] + ["source", "sinks", "nats", "x", "", "&a"])
VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["true", "*a", "&a b", "[a, b]", "{host: x}", "!!int 3", "|\n  a", "${HOME}"]),
)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=6))
def test_any_text_is_read_or_refused_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text("\n".join(f"{key}: {value}" for key, value in lines))
    try:
        config = file.read(path)
    except PgfloError:
        return  # any other exception fails the test
    assert set(config.values) <= {option.name for option in ALL}


def test_aliases_do_not_blow_up(tmp_path: Path) -> None:
    bombs = ["a: &a0 [x, x]"]
    bombs += [f"b{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    assert any("unknown key" in line for line in mistakes(tmp_path, "\n".join(bombs)))
