"""The language of `--tables`: names as in SQL, with `*` for every table of a schema.

Upstream: the command line. Downstream: catalog, which asks what exists.
Invariant: a name means the same table here as it does in psql (unquoted names are folded to lower
case, `""` inside quotes is one quote).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgflo.errors import USAGE, PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PART = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<star>\*)|(?P<plain>[^\s".,*]+))\s*')
_ESCAPED_QUOTE = '""'


@dataclass(frozen=True, slots=True)
class TablePattern:
    """One table of a schema, or (with `name` None) all of them."""

    schema: str
    name: str | None

    def matches(self, schema: str, name: str) -> bool:
        """Whether a table is meant."""
        return self.schema == schema and self.name in (None, name)

    def __str__(self) -> str:
        return f"{quote(self.schema)}.{'*' if self.name is None else quote(self.name)}"


def quote(identifier: str) -> str:
    """Write an identifier for people, with quotes only where SQL needs them."""
    if re.fullmatch(r"[a-z_][a-z0-9_$]*", identifier):
        return identifier
    return '"' + identifier.replace('"', _ESCAPED_QUOTE) + '"'


def parse(texts: Iterable[str], default_schema: str) -> tuple[TablePattern, ...]:
    """Read `a,b,other.c,"Odd.Name",sales.*`; a name without a schema is one of `default_schema`.

    Raises `PgfloError` of kind USAGE that shows the text and where reading it stopped.
    """
    return tuple(pattern for text in texts for pattern in _parse_list(text, default_schema))


def _parse_list(text: str, default_schema: str) -> Iterable[TablePattern]:
    at = 0
    while True:
        parts: list[str | None] = []
        while True:
            match = _PART.match(text, at)
            if match is None or None in parts:
                raise _unreadable(text, at)
            at = match.end()
            parts.append(_name(match))
            if not text.startswith(".", at):
                break
            at += 1
        if len(parts) > 2 or (len(parts) == 2 and parts[0] is None):
            raise _unreadable(text, at)
        yield TablePattern((parts[0] if len(parts) == 2 else None) or default_schema, parts[-1])
        if at == len(text):
            return
        if text[at] != ",":
            raise _unreadable(text, at)
        at += 1


def _name(match: re.Match[str]) -> str | None:
    if match["star"]:
        return None
    if match["quoted"]:
        return match["quoted"].replace(_ESCAPED_QUOTE, '"')
    return match["plain"].lower()


def _unreadable(text: str, at: int) -> PgfloError:
    return PgfloError(
        USAGE,
        f"cannot read the table list {text!r} at character {at + 1}",
        hint="Write it as in SQL: --tables 'users,sales.orders,\"Odd.Name\",archive.*'.",
    )
