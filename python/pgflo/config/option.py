"""What an option is: a flag, an environment variable and a key of a file, under one name.

Upstream: nothing. Downstream: `options`, the table of all of them, and everyone who walks it.
Neither click nor pydantic is imported here, so that `--help` stays quick.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

ENV_PREFIX = "PG_FLO_"


class Type(enum.Enum):
    """What the text of an option means."""

    TEXT = "text"
    HIDDEN = "hidden"
    """Never shown; `file:///run/secrets/x` stands for that file's content."""
    INTEGER = "integer"
    SWITCH = "switch"
    CHOICE = "choice"
    SIZE = "size"
    """Bytes: `64MB`, `10GB`; a factor is 1024."""
    DURATION = "duration"
    """Seconds: `500ms`, `150s`, `10m`, `1h`."""
    PATH = "path"
    REFERENCE = "reference"
    """A file. A configuration file may hold what is in it: `pgflo.yaml#rules` is then its name."""
    PATTERNS = "patterns"
    """Comma-separated names of tables, quoted as in SQL where odd."""
    GROUP = "group"
    SINK = "sink"
    UNTIL = "until"
    DESTINATIONS = "destinations"
    """Given as often as there are sinks; in the environment with blanks between. Never shown."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `section` and `key` tell where it stands in the nested form of a file.

    `least` and `most` bound integers and sizes (in bytes); the models of `settings` check the same.
    """

    name: str
    help: str
    type: Type = Type.TEXT
    default: str | int | None = None
    choices: tuple[str, ...] = ()
    short: str | None = None
    section: str | None = None
    key: str | None = None
    in_file: bool = True
    metavar: str | None = None
    least: int | None = None
    most: int | None = None

    @property
    def flag(self) -> str:
        """The spelling on the command line."""
        return f"--{self.name}"

    @property
    def parameter(self) -> str:
        """The spelling in Python."""
        return self.name.replace("-", "_")

    @property
    def env(self) -> str:
        """The spelling in the environment."""
        return ENV_PREFIX + self.name.upper().replace("-", "_")
