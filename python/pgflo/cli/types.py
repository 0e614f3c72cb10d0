"""How the text of a flag, a variable or a file becomes a value.

Upstream: `parse`, for each option. Downstream: `values`, which fills the settings with them.
Invariant: a value that is refused is told with its expected form, and a secret never appears.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from pgflo.config.destination import FORMS, Destination, read_named
from pgflo.config.options import Option, Type
from pgflo.errors import PgfloError

UNITS_BYTES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
UNITS_S = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
QUANTITY = re.compile(r"\s*(?P<number>\d{1,15}(?:\.\d{1,6})?)\s*(?P<unit>[A-Za-z]*)\s*")
GROUP_NAME = re.compile(r"[a-z0-9_]{1,40}")
SINK_NAME = re.compile(r"[a-z0-9_-]{1,40}")
UNTIL = re.compile(r"now|[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


class Size(click.ParamType[int]):
    """Bytes, as `64MB`; a factor is 1024 (JetStream and PostgreSQL count so)."""

    name = "size"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Give the number of bytes."""
        match = QUANTITY.fullmatch(str(value))
        unit = match["unit"].lower().replace("ib", "b") if match else "?"
        if unit in ("k", "m", "g", "t"):
            unit += "b"
        if match is None or unit not in UNITS_BYTES:
            self.fail(f"{value!r} is not a size such as 64MB or 10GB.", param, ctx)
        size = int(float(match["number"]) * UNITS_BYTES[unit])
        if size < self.least:
            self.fail(f"{value!r} is too small: at least {self.least} bytes.", param, ctx)
        return size


class Duration(click.ParamType[float]):
    """Seconds, as `500ms`, `150s`, `10m` or `1h`."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Give the number of seconds."""
        match = QUANTITY.fullmatch(str(value))
        if match is None or match["unit"] not in UNITS_S:
            self.fail(f"{value!r} is not a time such as 500ms, 30s, 10m or 1h.", param, ctx)
        return float(match["number"]) * UNITS_S[match["unit"]]


class Pattern(click.ParamType[str]):
    """Text that has to match; `form` tells how it should look."""

    def __init__(self, name: str, pattern: re.Pattern[str], form: str) -> None:
        self.name = name
        self.pattern = pattern
        self.form = form

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Give the text."""
        if not self.pattern.fullmatch(str(value)):
            self.fail(f"{str(value)[:80]!r} is not {self.form}.", param, ctx)
        return str(value)


class Hidden(click.ParamType[str]):
    """A secret; `file:///run/secrets/x` stands for that file's content."""

    name = "text"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Give the secret itself."""
        text = str(value)
        if not text.startswith("file:///"):
            return text
        from pgflo.config.file import resolve_secret

        try:
            return resolve_secret(text)
        except PgfloError as error:
            self.fail(error.detail, param, ctx)


class Patterns(click.ParamType[tuple[str, ...]]):
    """Names of tables, written as in SQL; checked here, resolved by the replicator."""

    name = "tables"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Give the patterns as they were typed."""
        from pgflo.source.patterns import parse

        texts = (
            tuple(str(text) for text in value) if isinstance(value, list | tuple) else (str(value),)
        )
        try:
            parse(texts, "public")
        except PgfloError as error:
            self.fail(f"{error.detail}. {error.hint}", param, ctx)
        return texts


class To(click.ParamType[Destination]):
    """Where a sink writes, perhaps with a name before it."""

    name = "url"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Destination:
        """Give kind and place."""
        found = value if isinstance(value, Destination) else read_named(str(value))
        if found is None:
            self.fail(f"it has to be {FORMS}, with NAME= before it or without.", param, ctx)
        return found


class File(click.ParamType[Path]):
    """A path; `~` is the home directory."""

    name = "path"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Give the path."""
        if not str(value):
            self.fail("the path is empty.", param, ctx)
        return Path(str(value)).expanduser()


PLAIN: dict[Type, click.ParamType[Any]] = {
    Type.TEXT: click.STRING,
    Type.SWITCH: click.BOOL,
    Type.DURATION: Duration(),
    Type.PATH: File(),
    Type.REFERENCE: click.STRING,
    Type.PATTERNS: Patterns(),
    Type.HIDDEN: Hidden(),
    Type.GROUP: Pattern("name", GROUP_NAME, "a name of a-z, 0-9 and _, at most 40 characters"),
    Type.SINK: Pattern("name", SINK_NAME, "a name of a-z, 0-9, _ and -, at most 40 characters"),
    Type.DESTINATIONS: To(),
    Type.UNTIL: Pattern("lsn", UNTIL, "`now` or an LSN such as 0/16B3748"),
}


def of(option: Option) -> click.ParamType[Any]:
    """Give the click type of an option."""
    match option.type:
        case Type.INTEGER:
            return click.IntRange(option.least, option.most)
        case Type.CHOICE:
            return click.Choice(option.choices)
        case Type.SIZE:
            return Size(option.least or 0)
        case plain:
            return PLAIN[plain]
