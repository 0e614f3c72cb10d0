"""`pgflo config schema`.

Upstream: `app`. Downstream: editors, which check files by it.
"""

from __future__ import annotations

from typing import Any

import click

from pgflo.cli import parse
from pgflo.config import options as o
from pgflo.config.option import Option, Type


@parse.command("schema", {}, reads_config=False)
def schema(values: parse.Values) -> None:  # noqa: ARG001 - it has no options of its own
    """Print the JSON Schema of the configuration file, of rules and of routing."""
    import orjson

    from pgflo.rules import models

    whole = models.schema() | {"config": _config()}
    click.echo(orjson.dumps(whole, option=orjson.OPT_INDENT_2).decode())


def _config() -> dict[str, Any]:
    """Describe the flat keys and the sections."""
    properties = {option.name: _value(option) for option in o.ALL if option.in_file}
    for section, options in o.SECTIONS.items():
        keys = {key: _value(option) for key, option in options.items()}
        properties[section] = _mapping(keys)
    sink = {"to": {"type": "string"}}
    sink |= {option.name: _value(option) for option in o.WORKING}
    for short, name in (("rules", "rules-config"), ("routing", "routing-config")):
        sink[short] = properties[short] = _value(o.BY_NAME[name])
    sinks = {"type": "object", "additionalProperties": _mapping(sink)}
    return _mapping(properties | {"sinks": sinks})


def _mapping(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value(option: Option) -> dict[str, Any]:
    told: dict[str, Any] = {"description": option.help}
    match option.type:
        case Type.SWITCH:
            told["type"] = "boolean"
        case Type.INTEGER:
            told["type"] = "integer"
            told |= {"minimum": option.least} if option.least is not None else {}
            told |= {"maximum": option.most} if option.most is not None else {}
        case Type.CHOICE:
            told["enum"] = list(option.choices)
        case Type.PATTERNS:
            told["type"] = ["string", "array"]
        case Type.REFERENCE:
            told["type"] = ["string", "object", "array"]
        case _:
            told["type"] = ["string", "number"]
    return told


group = parse.Group(
    name="config",
    help="What may stand in files.",
    context_settings=parse.CONTEXT,
    commands={"schema": schema},
)
