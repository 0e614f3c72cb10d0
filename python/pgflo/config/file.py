"""The configuration file: YAML in the flat or the nested form, every mistake with file and line.

Upstream: `--config`, or one of the usual places. Downstream: `pgflo.cli`, for which the file comes
after flags and environment. Flat keys are the flags without dashes in front; the nested form puts
them into `source:`, `copy:`, `nats:`, `target:`, `retry:`, and each sink into an entry of `sinks:`.
Invariant: scalars stay the text that was written (a password 007 is not the number 7), `${VAR}` and
`file:///…` are resolved, a key that no command knows is an error, and no message shows a value.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from pgflo.config import destination
from pgflo.config.destination import FILE_URL
from pgflo.config.options import ALL, BY_NAME, SECTIONS, TARGET_SERVER, WORKING, Option, Type
from pgflo.errors import CONFIG, PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator

USUAL_PLACES = ("pgflo.yaml", "pg_flo.yaml", "~/.pg_flo.yaml")
SINKS = "sinks"
SINK_SECTIONS = ("target", "file", "webhook")
SINK_OPTIONS = {
    option.name: option
    for option in WORKING
    if option.section in (None, "copy", *SINK_SECTIONS)
    and option.name not in ("sink", "until", "once")
}
SHORT_NAMES = {"rules": BY_NAME["rules-config"], "routing": BY_NAME["routing-config"]}
"""Keys that name a file, or hold what would be in it."""
MAX_FILE_BYTES = 1024 * 1024
MAX_DEPTH = 32
VARIABLE = re.compile(r"\$(?P<escaped>\$)?\{(?P<name>[^{}]*)\}")

Value = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sink:
    """One entry of `sinks:`; `values` by option name, as a worker's flags would give them."""

    name: str
    values: dict[str, Value]
    lines: dict[str, int]
    line: int

    @property
    def kind(self) -> str:
        """What `to` or the other keys tell: postgres, file, webhook, stdout, or another's name."""
        if "kind" in self.values:
            return str(self.values["kind"])
        if "file-output-dir" in self.values:
            return "file"
        return "webhook" if "webhook-url" in self.values else "postgres"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that was read: values by option name, and the line of each."""

    path: Path
    values: dict[str, Value] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    sinks: dict[str, Sink] = field(default_factory=dict)

    def place(self, name: str) -> str:
        """Tell where an option was set, as `pgflo.yaml:3`."""
        return f"{self.path}:{self.lines.get(name, 1)}"


def find(explicit: str | None) -> Path | None:
    """Give the file to read: the one named, else the first usual place that exists."""
    if explicit is not None:
        path = Path(explicit).expanduser()
        if not path.is_file() and not path.is_char_device():
            raise PgfloError(CONFIG, f"there is no configuration file {explicit}", hint=_HINT)
        return path
    for place in USUAL_PLACES:
        path = Path(place).expanduser()
        if path.is_file():
            return path
    return None


def read(path: Path) -> ConfigFile:
    """Read and check a file. Raises `PgfloError` CONFIG that lists every mistake in it."""
    root = _compose(path)
    reader = _Reader(path)
    config = ConfigFile(path)
    if root is not None:
        reader.read_root(root, config)
    if reader.mistakes:
        raise PgfloError(CONFIG, "\n".join(reader.mistakes), hint=_HINT)
    return config


def for_sink(config: ConfigFile, name: str | None, kind: str = "postgres") -> ConfigFile:
    """Lay the settings of one entry of `sinks:` over the file's, for that sink's worker.

    Without a name the only entry of that kind is meant. Raises `PgfloError` CONFIG when there are
    several, or when the one that is named is of another kind.
    """
    fitting = [sink for sink in config.sinks.values() if sink.kind == kind]
    if not config.sinks or not (name or fitting):
        return config
    if name is None and len(fitting) > 1:
        raise PgfloError(
            CONFIG,
            f"{config.path} has several sinks: {', '.join(sink.name for sink in fitting)}",
            hint=f"Name one: `pgflo worker {kind} --sink NAME`.",
        )
    sink = config.sinks.get(name) if name else fitting[0]
    if sink is not None and sink.kind != kind:
        raise PgfloError(
            CONFIG,
            f"{config.path}:{sink.line}: sink {sink.name} is not of kind {kind} but {sink.kind}",
            hint=f"Start it by `pgflo worker {sink.kind} --sink {sink.name}`.",
        )
    if sink is None:
        raise PgfloError(
            CONFIG,
            f"{config.path} has no sink {name}, only {', '.join(config.sinks)}",
            hint="Name one of them with --sink, or add an entry to `sinks:`.",
        )
    target = {option.name for option in TARGET_SERVER}
    own_target = target & sink.values.keys()
    # A sink that tells its server tells all of it: nothing is mixed in from another place.
    shared = {k: v for k, v in config.values.items() if not (own_target and k in target)}
    own = {k: v for k, v in sink.values.items() if k in BY_NAME}
    return ConfigFile(
        config.path,
        {**shared, "sink": sink.name, **own},
        {**config.lines, "sink": sink.line, **sink.lines},
        config.sinks,
    )


def resolve_secret(text: str) -> str:
    """Give the content of the file that `file:///…` names, without its last newline."""
    if not text.startswith(FILE_URL):
        return text
    path = Path(urlsplit(text).path)
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PgfloError(CONFIG, f"cannot read the secret {path}: {reason}") from None


_HINT = "Mend the file; `pgflo COMMAND --help` lists the keys, which are the flags without dashes."


def _compose(path: Path) -> Node | None:
    """Parse into a graph of nodes, which keeps the text and the line of everything."""
    try:
        if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
            raise PgfloError(CONFIG, f"{path} is larger than 1 MB", hint=_HINT)
        parser = YAML(typ="rt", pure=True)
        parser.max_depth = MAX_DEPTH
        # The warning would quote lines of the file.
        parser.composer.warn_double_anchors = False
        root: Node | None = parser.compose(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = error.problem or error.context or "not valid YAML"
        if "alias" in problem:
            # The parser quotes what follows the star, which may be a password.
            problem = "a value that begins with * must stand in quotes"
        raise PgfloError(CONFIG, f"{place}: {problem}", hint=_HINT) from None
    except (YAMLError, RecursionError) as error:
        # YAMLError's own text may quote the line; a line may hold a password.
        raise PgfloError(
            CONFIG, f"{path}: not valid YAML ({type(error).__name__})", hint=_HINT
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PgfloError(CONFIG, f"cannot read {path}: {reason}", hint=_HINT) from None
    return root


class _Reader:
    """Walks the nodes of one file and collects values and mistakes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mistakes: list[str] = []

    def read_root(self, root: Node, config: ConfigFile) -> None:
        if not self._is_mapping(root):
            if not self._is_empty(root):
                self._mistake(root, "the file must hold `key: value` lines")
            return
        for name, key, value in self._items(root):
            if name == SINKS:
                self._read_sinks(value, config)
            elif name in SECTIONS and self._is_mapping(value):
                self._read_section(name, value, config.values, config.lines)
            elif name in SHORT_NAMES or (name in BY_NAME and BY_NAME[name].in_file):
                option = SHORT_NAMES.get(name) or BY_NAME[name]
                self._take(option, name, key, value, config.values, config.lines)
            elif name in SECTIONS:
                self._mistake(key, f"{name} needs keys of its own: {', '.join(SECTIONS[name])}")
            else:
                known = [o.name for o in ALL if o.in_file]
                self._unknown(key, name, [*known, *SECTIONS, *SHORT_NAMES, SINKS])

    def _read_section(
        self,
        section: str,
        node: Node,
        values: dict[str, Value],
        lines: dict[str, int],
        allowed: dict[str, Option] | None = None,
    ) -> None:
        for name, key, value in self._items(node):
            option = SECTIONS[section].get(name)
            if option is None or (allowed is not None and option.name not in allowed):
                known = [
                    key
                    for key, option in SECTIONS[section].items()
                    if allowed is None or option.name in allowed
                ]
                self._unknown(key, f"{section}.{name}", [f"{section}.{k}" for k in known])
            else:
                self._take(option, f"{section}.{name}", key, value, values, lines)

    def _read_sinks(self, node: Node, config: ConfigFile) -> None:
        if not self._is_mapping(node):
            self._mistake(node, "sinks needs an entry `name: {to: postgres://…}` for each sink")
            return
        for sink_name, key, entry in self._items(node):
            sink = Sink(sink_name, {}, {}, key.start_mark.line + 1)
            config.sinks[sink_name] = sink
            if not self._is_mapping(entry):
                self._mistake(key, f"sinks.{sink_name} needs keys: to, or target-host and so on")
                continue
            for name, at, value in self._items(entry):
                where = f"sinks.{sink_name}.{name}"
                if name == "to":
                    self._take_destination(where, at, value, sink)
                elif name in SINK_SECTIONS and self._is_mapping(value):
                    self._read_section(name, value, sink.values, sink.lines, SINK_OPTIONS)
                elif option := SHORT_NAMES.get(name) or SINK_OPTIONS.get(name):
                    self._take(option, where, at, value, sink.values, sink.lines)
                else:
                    known = [f"sinks.{sink_name}.{k}" for k in ("to", *SHORT_NAMES, *SINK_OPTIONS)]
                    self._unknown(at, where, known)

    def _take_destination(self, name: str, key: Node, value: Node, sink: Sink) -> None:
        """Read `to:`: a database, a directory (`file:///…`), an address, or a kind (`stdout`)."""
        text = str(value.value) if isinstance(value, ScalarNode) else ""
        with contextlib.suppress(PgfloError):  # told below, with its place
            text = self._resolve_variables(text)
        found = destination.read(text)
        if found is not None and found.option is None:
            sink.values["kind"] = found.kind
            return
        # Whatever else it is, libpq may know what it means.
        option = (found and found.option) or BY_NAME["target"]
        self._take(option, name, key, value, sink.values, sink.lines)

    def _take(
        self,
        option: Option,
        name: str,
        key: Node,
        value: Node,
        values: dict[str, Value],
        lines: dict[str, int],
    ) -> None:
        if option.name in values:
            self._mistake(
                key, f"{name} is set twice: line {lines[option.name]} has the same setting"
            )
            return
        taken = self._value(option, name, value)
        if taken is not None:
            values[option.name] = taken
            lines[option.name] = key.start_mark.line + 1

    def _value(self, option: Option, name: str, node: Node) -> Value | None:
        if isinstance(node, SequenceNode) and option.type is Type.PATTERNS:
            items = [self._value(option, name, item) for item in node.value]
            return tuple(item for item in items if isinstance(item, str))
        if option.type is Type.REFERENCE and not isinstance(node, ScalarNode):
            return f"{self.path}#{name}"
        if not isinstance(node, ScalarNode):
            self._mistake(node, f"{name} needs a single value")
            return None
        if self._is_empty(node):
            self._mistake(node, f"{name} has no value: give one or remove the line")
            return None
        try:
            text = self._resolve_variables(str(node.value))
            if option.type is Type.PATH:
                return destination.path_of(text) if text.startswith(FILE_URL) else text
            return resolve_secret(text)
        except PgfloError as error:
            self._mistake(node, f"{name}: {error.detail}")
            return None

    @staticmethod
    def _resolve_variables(text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            if match["escaped"]:
                return f"${{{match['name']}}}"
            value = os.environ.get(match["name"])
            if value is None:
                name = match["name"]
                raise PgfloError(
                    CONFIG, f"the environment has no {name} (write $${{ for a plain ${{)"
                )
            return value

        return VARIABLE.sub(replace, text)

    def _items(self, node: Node) -> Iterator[tuple[str, Node, Node]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key.value, str) else ""
            line = key.start_mark.line + 1
            if not name:
                self._mistake(key, "a key must be a word")
            elif name in seen:
                self._mistake(key, f"{name} stands here again, first in line {seen[name]}")
            else:
                seen[name] = line
                yield name, key, value

    def _unknown(self, node: Node, name: str, known: list[str]) -> None:
        matches = get_close_matches(name.replace("_", "-"), known, n=1, cutoff=0.5)
        meant = f'; did you mean "{matches[0]}"?' if matches else ""
        self._mistake(node, f'unknown key "{name}"{meant}')

    def _mistake(self, node: Node, text: str) -> None:
        self.mistakes.append(f"{self.path}:{node.start_mark.line + 1}: {text}")

    @staticmethod
    def _is_mapping(node: Node) -> bool:
        return isinstance(node, MappingNode)

    @staticmethod
    def _is_empty(node: Node) -> bool:
        # A quoted empty string has a style; it is a value.
        return isinstance(node, ScalarNode) and not node.value and not node.style
