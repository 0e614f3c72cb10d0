"""The stdout sink: JSON lines and nothing else, or with --pretty something for people.

Upstream: `lines`. Downstream: whoever reads this process's standard output.
Invariant: what is committed was taken by the pipe, file or terminal. Nothing tells what its reader
did with it, so after a crash lines may come again, under the same ids.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pgflo import errors
from pgflo.sinks.contract import Opening, Outlet
from pgflo.sinks.output import telling, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgflo._core import Events

STDOUT = 1


class Stdout(Outlet):
    """Blocks of lines into the standard output, which no buffer of ours delays."""

    def __init__(self, opening: Opening) -> None:
        super().__init__(opening)
        self._is_pretty = opening.settings.pretty

    def write(self, events: Events) -> None:
        """Write all lines of a body at once."""
        data = events.data
        if self._is_pretty:
            data = b"".join(map(pretty, data.splitlines()))
        # Trying again would put a line behind half of another.
        with telling("stdout", full=errors.SINK_OUTPUT):
            write_all(STDOUT, data)


def pretty(line: bytes) -> bytes:
    """Draw one event for people: a head, and a line for each column."""
    # Numbers stay the text that they are.
    event = json.loads(line, parse_float=Number, parse_int=Number)
    when = event.get("commit_time", "copied").replace("T", " ")
    head = f"{when}  {event['op']} {event['schema']}.{event['table']}"
    if "key" in event:
        head += "  " + ", ".join(f"{name}={_text(value)}" for name, value in event["key"].items())
    return "\n".join([head, *_columns(event), ""]).encode()


class Number(str):
    """A number as it was written."""

    __slots__ = ()


def _columns(event: dict[str, Any]) -> Iterator[str]:
    old, key = event.get("old", {}), event.get("key", {})
    for name, value in event.get("new", {}).items():
        if name in old and old[name] != value:
            yield f"    {name}: {_text(old[name])} -> {_text(value)}"
        elif name not in key:
            yield f"    {name}: {_text(value)}"
    for name in event.get("unchanged", []):
        yield f"    {name}: (unchanged)"


def _text(value: object) -> str:
    """Write a value as JSON, numbers as they came."""
    match value:
        case Number():
            return value
        case dict():
            inner = (f"{json.dumps(k, ensure_ascii=False)}: {_text(v)}" for k, v in value.items())
            return "{" + ", ".join(inner) + "}"
        case list():
            return "[" + ", ".join(map(_text, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)
