"""The table of options: three spellings, one value; flag before environment before file."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgflo.cli import parse
from pgflo.cli import values as read
from pgflo.config import options as o
from pgflo.config.destination import Destination
from pgflo.config.options import Option, Type
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXAMPLES: dict[Type, tuple[str, object]] = {
    Type.TEXT: ("word", "word"),
    Type.HIDDEN: ("word", "word"),
    Type.INTEGER: ("3", 3),
    Type.SIZE: ("128MB", 128 * 1024 * 1024),
    Type.DURATION: ("90s", 90.0),
    Type.PATH: ("/some/where", Path("/some/where")),
    Type.REFERENCE: ("some/where.yaml", "some/where.yaml"),
    Type.PATTERNS: ('a,"B.c",d.*', ('a,"B.c",d.*',)),
    Type.GROUP: ("shop_2", "shop_2"),
    Type.SINK: ("crm-2", "crm-2"),
    Type.UNTIL: ("0/16B3748", "0/16B3748"),
    Type.SWITCH: ("true", True),
    Type.DESTINATIONS: (
        "lake=file:///a%20b#2?",
        (Destination("file", o.FILE_OUTPUT_DIR, "/a b#2?", "lake"),),
    ),
}
IN_FILE = [option for option in o.ALL if option.in_file]
SHOWN = [option for option in o.ALL if option is not o.CONFIG]


def example(option: Option) -> tuple[str, object]:
    """Give a text for an option and the value it stands for."""
    if option.type is Type.CHOICE:
        return option.choices[-1], option.choices[-1]
    return EXAMPLES[option.type]


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No settings from outside, no file in a usual place, logging put back."""
    for name in list(os.environ):
        if name.startswith(("PG_FLO_", "PG")):
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def values_of(*arguments: str, options: tuple[Option, ...] = o.ALL) -> parse.Values:
    """Parse a command line of a command that takes all options."""
    seen: list[parse.Values] = []

    @parse.command("probe", {"All": options})
    def probe(values: parse.Values) -> None:
        """Take everything."""
        seen.append(values)

    group = parse.Group(name="pgflo", commands={"probe": probe}, context_settings=parse.CONTEXT)
    group.main(["probe", *arguments], standalone_mode=False)
    return seen[0]


def as_flag(option: Option, text: str) -> list[str]:
    """Write an option on the command line."""
    return [option.flag] if option.type is Type.SWITCH else [option.flag, text]


@pytest.mark.parametrize("option", SHOWN, ids=lambda option: option.name)
def test_every_flag_has_an_environment_variable_of_the_same_meaning(
    option: Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = example(option)
    assert values_of(*as_flag(option, text)).get(option) == value
    monkeypatch.setenv("PG_FLO_" + option.name.upper().replace("-", "_"), text)
    assert values_of().get(option) == value


@pytest.mark.parametrize("option", IN_FILE, ids=lambda option: option.name)
def test_every_flag_has_a_key_of_the_same_meaning(option: Option, tmp_path: Path) -> None:
    text, value = example(option)
    file = tmp_path / "flat.yaml"
    file.write_text(f"{option.name}: '{text}'\n")
    assert values_of("--config", str(file)).get(option) == value


@pytest.mark.parametrize(
    "option", [option for option in IN_FILE if option.section], ids=lambda option: option.name
)
def test_the_nested_form_means_the_same_as_the_flat_one(option: Option, tmp_path: Path) -> None:
    text, value = example(option)
    for key in (option.key, option.name):
        file = tmp_path / "nested.yaml"
        file.write_text(f"{option.section}:\n  {key}: '{text}'\n")
        assert values_of("--config", str(file)).get(option) == value


def test_flag_goes_before_environment_before_file_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert values_of().get(o.RANGE_SIZE) == 64 * 1024 * 1024
    (tmp_path / "pgflo.yaml").write_text("range-size: 1MB\n")
    assert values_of().get(o.RANGE_SIZE) == 1 << 20
    monkeypatch.setenv("PG_FLO_RANGE_SIZE", "2MB")
    assert values_of().get(o.RANGE_SIZE) == 2 << 20
    assert values_of("--range-size", "3MB").get(o.RANGE_SIZE) == 3 << 20


@pytest.mark.parametrize("place", ["pgflo.yaml", "pg_flo.yaml", "home/.pg_flo.yaml"])
def test_a_file_in_a_usual_place_is_read(place: str, tmp_path: Path) -> None:
    (tmp_path / place).write_text("group: from_there\n")
    assert values_of().get(o.GROUP) == "from_there"


def test_the_first_usual_place_wins_and_config_goes_before_all(tmp_path: Path) -> None:
    (tmp_path / "home/.pg_flo.yaml").write_text("group: home\n")
    (tmp_path / "pg_flo.yaml").write_text("group: old\n")
    assert values_of().get(o.GROUP) == "old"
    (tmp_path / "pgflo.yaml").write_text("group: new\n")
    assert values_of().get(o.GROUP) == "new"
    (tmp_path / "other.yaml").write_text("group: other\n")
    assert values_of("-c", "other.yaml").get(o.GROUP) == "other"


def test_values_know_where_they_were_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pgflo.yaml").write_text("# first line\nhost: db1\n")
    monkeypatch.setenv("PG_FLO_PORT", "5433")
    values = values_of("--dbname", "shop")
    assert values.origin(o.HOST).endswith("pgflo.yaml:2")
    assert values.origin(o.PORT) == "PG_FLO_PORT"
    assert values.origin(o.DBNAME) == "--dbname"
    assert values.origin(o.SCHEMA) == "default"


def test_a_mode_flag_replaces_the_mode_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read.mode(values_of()) == "stream"
    (tmp_path / "pgflo.yaml").write_text("copy-and-stream: true\n")
    assert read.mode(values_of()) == "copy-and-stream"
    monkeypatch.setenv("PG_FLO_COPY", "1")
    assert read.mode(values_of()) == "copy"
    assert read.mode(values_of("--stream")) == "stream"


def test_two_modes_at_once_are_refused_by_name() -> None:
    with pytest.raises(PgfloError, match="--copy and --copy-and-stream exclude each other"):
        read.mode(values_of("--copy", "--copy-and-stream"))


def test_a_value_of_the_wrong_kind_is_told_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "pgflo.yaml").write_text("host: db1\n\nport: many\n")
    with pytest.raises(PgfloError, match=r"pgflo\.yaml:3: port: 'many' is not a valid integer"):
        values_of()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (o.RANGE_SIZE, "64 parsecs"),
        (o.RANGE_SIZE, "1kB"),
        (o.RETAIN, "10 minutes"),
        (o.RETAIN, "-1s"),
        (o.GROUP, "Shop"),
        (o.GROUP, "a" * 41),
        (o.SINK, "a.b"),
        (o.UNTIL, "tomorrow"),
        (o.UNTIL, "0/16B3748Z"),
        (o.PORT, "65536"),
        (o.MAX_COPY_WORKERS, "0"),
        (o.CONFIRM_AFTER, "never"),
        (o.TABLES, 'a,"b'),
    ],
)
def test_values_outside_their_range_are_refused(option: Option, text: str) -> None:
    import click

    with pytest.raises(click.BadParameter):
        values_of(option.flag, text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("64MB", 64 << 20), ("64 mb", 64 << 20), ("1GiB", 1 << 30), ("2g", 2 << 30), ("65536", 65536)],
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert values_of("--range-size", text).get(o.RANGE_SIZE) == count


@pytest.mark.parametrize(
    ("text", "count"), [("500ms", 0.5), ("10m", 600.0), ("1h", 3600.0), ("2.5", 2.5), ("1d", 86400)]
)
def test_times_are_read_as_people_write_them(text: str, count: float) -> None:
    assert values_of("--retain", text).get(o.RETAIN) == count


@pytest.mark.parametrize("spelled", [["-v"], ["--log-level", "error"], ["--config=other.yaml"]])
def test_global_options_may_stand_before_the_command(spelled: list[str], tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("group: other\n")
    seen: list[parse.Values] = []

    @parse.command("probe", {})
    def probe(values: parse.Values) -> None:
        """Take global options."""
        seen.append(values)

    group = parse.Group(name="pgflo", commands={"probe": probe})
    group.main([*spelled, "probe"], standalone_mode=False)
    group.main(["probe", *spelled], standalone_mode=False)
    before, after = (dict(values.typed) for values in seen)
    assert before == after
    assert any(seen[0].rank(option) == 3 for option in o.GLOBAL)


ENVIRONMENT: list[tuple[Mapping[str, str], list[str], dict[str, str]]] = [
    ({}, ["--source", "postgres://u@h/d"], {"user": "u", "host": "h", "dbname": "d"}),
    (
        {},
        ["--host", "h", "--dbname", "d", "--port", "1"],
        {"host": "h", "dbname": "d", "port": "1"},
    ),
    ({"PGDATABASE": "x"}, ["--host", "h"], {"host": "h"}),
    ({"PGSERVICE": "x"}, [], {}),
    ({"PG_FLO_SOURCE": "host=a dbname=b"}, ["--host", "c"], {"host": "c", "dbname": "b"}),
    ({"PG_FLO_HOST": "a"}, ["--source", "host=c dbname=b"], {"host": "c", "dbname": "b"}),
    ({"PGPASSWORD": "secret"}, ["--dbname", "d"], {"dbname": "d"}),
]


@pytest.mark.parametrize(("environment", "flags", "expected"), ENVIRONMENT)
def test_conninfo_holds_what_the_user_said_and_leaves_the_rest_to_libpq(
    environment: Mapping[str, str],
    flags: list[str],
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from psycopg.conninfo import conninfo_to_dict

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    conninfo = conninfo_to_dict(read.source_conninfo(values_of(*flags)).get_secret_value())
    conninfo.pop("fallback_application_name")
    assert conninfo == expected


def test_a_database_must_be_named_even_when_there_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "pgflo.yaml").write_text("host: db1\n")
    with pytest.raises(PgfloError, match="--source or --dbname is missing"):
        read.source_conninfo(values_of())
    with pytest.raises(PgfloError, match="--target or --target-dbname is missing"):
        read.target_conninfo(values_of())


def test_a_worker_finds_the_source_under_its_own_flags_or_in_a_shared_file(tmp_path: Path) -> None:
    from psycopg.conninfo import conninfo_to_dict

    worker = (o.GROUP, *o.WORKING, *o.GLOBAL)

    def schema_source(*flags: str) -> dict[str, object]:
        values = values_of("--group", "g", "--target", "dbname=b", *flags, options=worker)
        found = read.worker(values).schema_source
        told = {} if found is None else conninfo_to_dict(found.get_secret_value())
        return {name: value for name, value in told.items() if name != "fallback_application_name"}

    # Without the flag no source is needed, with it one is.
    assert schema_source("--source", "dbname=a") == {}
    with pytest.raises(PgfloError, match="--source or --source-dbname is missing"):
        schema_source("--target-sync-schema")
    told = schema_source("--target-sync-schema", "--source-host", "h", "--source-dbname", "d")
    assert told == {"host": "h", "dbname": "d"}
    # A file that serves both commands names it once; a flag replaces all of that.
    (tmp_path / "pgflo.yaml").write_text(
        "source: {host: h, port: 7, dbname: d}\ntarget: {sync-schema: true}\n"
    )
    assert schema_source() == {"host": "h", "port": "7", "dbname": "d"}
    told = schema_source("--source-host", "other", "--source-dbname", "e")
    assert told == {"host": "other", "dbname": "e"}


def test_a_bad_connection_string_is_not_quoted() -> None:
    with pytest.raises(PgfloError) as caught:
        read.source_conninfo(values_of("--source", "host=a passwort=canary"))
    assert "canary" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_defaults_of_flags_are_the_defaults_of_the_models() -> None:
    from pgflo.config.settings import CopySettings, NatsSettings, RetrySettings

    values = values_of("--group", "g", "--source", "dbname=a", "--target", "dbname=b")
    replicate, worker = read.replicate(values), read.worker(values)
    assert replicate.copying == CopySettings()
    assert replicate.nats == worker.nats == NatsSettings()
    assert replicate.retry == worker.retry == RetrySettings()
    for settings in (replicate, worker):
        plain = type(settings).model_fields
        for name, value in settings:
            if plain[name].default is not None and not plain[name].is_required():
                assert value == plain[name].get_default(call_default_factory=True), name
