"""The table of errors: unique codes, known exit codes, hints that tell what to type or to set."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import pgflo
from pgflo import errors
from pgflo.cli import report
from pgflo.config.options import BY_NAME
from pgflo.errors import Exit, Kind, PgfloError, Retry

KINDS = {name: value for name, value in vars(errors).items() if isinstance(value, Kind)}
KINDS |= {
    f"report.{name}": value for name, value in vars(report).items() if isinstance(value, Kind)
}
ACTIONS = re.compile(
    r"`[^`]+`|--[a-z]|\b[a-z]+_[a-z_]+\b|\b[A-Z]{2,}|"
    r"\b(?:Mend|Choose|Install|Look|Read|Check|Start|Stop|Give|Connect|Raise|Add|Use|Wait|Set|Name)\b"
)
SOURCES = sorted(Path(pgflo.__file__).parent.rglob("*.py"))


def test_codes_are_unique_and_speak_of_an_area() -> None:
    codes = [kind.code for name, kind in KINDS.items() if not name.startswith("report.USAGE")]
    assert len(codes) == len(set(codes))
    for code in codes:
        assert re.fullmatch(r"[a-z]+(\.[a-z_]+)?", code), code


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_hint_names_a_setting_or_a_command(name: str) -> None:
    kind = KINDS[name]
    assert kind.hint.endswith("."), name
    assert ACTIONS.search(kind.hint), f"{name}: {kind.hint}"
    assert len(kind.hint) < 240, name


@pytest.mark.parametrize("name", sorted(KINDS))
def test_flags_and_commands_in_hints_exist(name: str) -> None:
    from pgflo.cli.app import app

    hint = KINDS[name].hint
    for command in re.findall(r"`pgflo ([a-z]+)", hint):
        assert command in app.commands, f"{name} names `pgflo {command}`"
    quoted = re.findall(r"`([^`]*)`", hint)
    others = [text for text in quoted if not text.startswith("pgflo ")]
    ours = " ".join(part for part in re.split(r"`", hint) if part not in others)
    for flag in re.findall(r"--([a-z][a-z-]*)", ours):
        assert flag in {*BY_NAME, "help"}, f"{name} names --{flag}"


def test_exit_codes_are_those_of_the_interface() -> None:
    assert {code.value for code in Exit} == {0, 1, 2, 3, 4, 5, 6, 7, 8, 130}
    for kind in KINDS.values():
        assert kind.exit_code not in (Exit.DONE, Exit.INTERRUPTED)


def test_every_kind_is_raised_somewhere() -> None:
    used = set()
    for path in SOURCES:
        if path.name != "errors.py":
            used |= set(re.findall(r"\b[A-Z][A-Z_]+\b", path.read_text()))
    unused = [name for name in KINDS if name.rsplit(".", 1)[-1] not in used]
    assert unused == []


def test_no_message_is_built_of_a_connection_string() -> None:
    """A PgfloError's text never takes a whole DSN: conninfo and URLs with passwords stay out."""
    suspicious = {"conninfo", "dsn", "password", "url"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "PgfloError"):
                continue
            for part in ast.walk(node):
                if isinstance(part, ast.FormattedValue) and isinstance(
                    part.value, ast.Name | ast.Attribute
                ):
                    name = part.value.id if isinstance(part.value, ast.Name) else part.value.attr
                    assert name not in suspicious, f"{path}:{part.lineno}"


def test_a_failure_is_told_as_kind_detail_place_and_next_step() -> None:
    failure = PgfloError(
        errors.SOURCE_UNREACHABLE, "no route\nto the host", group="shop", lsn="0/10"
    )
    assert report.to_text(failure).splitlines() == [
        "error: no route  [source.unreachable]",
        "       to the host",
        "where: group shop, lsn 0/10",
        f"next:  {errors.SOURCE_UNREACHABLE.hint}",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "postgres://u:canary@h/d",
        "postgres://u:ca@nary@h/d canary".replace(" canary", ""),
        "host=h password=canary",
        "host=h password = 'can\\' ary'",
        "postgres://h/d?password=canary&x=1",
        "nats://canary@h:4222",
        "nats://u:canary@h:4222,nats://u:canary@g",
        "PASSWORD=canary",
    ],
)
def test_passwords_are_starred_out_of_whatever_is_told(text: str) -> None:
    failure = PgfloError(errors.USAGE, text, hint=text, where=text)
    for told in (report.to_text(failure), report.to_json(failure)):
        assert "canary" not in told
        assert "nary" not in told
        assert "ary'" not in told


def test_of_several_failures_the_one_that_needs_help_is_told() -> None:
    heals = PgfloError(errors.SOURCE_UNREACHABLE, "gone")
    stays = PgfloError(errors.CONFIG, "wrong")
    defect = ValueError("row value 42")
    assert (
        report.innermost(ExceptionGroup("", [defect, ExceptionGroup("", [heals, stays])])) is stays
    )
    assert report.innermost(ExceptionGroup("", [defect, heals])) is heals
    told = report.unexpected(defect)
    assert "42" not in report.to_text(told)
    assert told.exit_code == Exit.INTERNAL
    assert told.kind.retry is Retry.BACKOFF
