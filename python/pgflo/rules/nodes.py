"""A YAML file as plain values beside the place of each of them.

Upstream: a rules or routing file, or a part of the configuration file
(`pgflo.yaml#sinks.shop.rules`). Downstream: `read`.
Invariants: a scalar is the text that was written (a constant 007 is not the number 7), only an
empty value or null is None; what is no YAML is told with its place and without quoting a line;
what aliases repeat, or repeat without an end, is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from pgflo.errors import CONFIG_RULES, PgfloError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILE_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_VALUES = 100_000
"""In a tree, with those that aliases repeat: a few lines of them can stand for billions."""
NULL_TAG = "tag:yaml.org,2002:null"

Path_ = tuple[str | int, ...]
"""The way to a value: keys and numbers."""


@dataclass(slots=True)
class Tree:
    """A file, read."""

    file: str
    value: Any = None
    places: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    """Line and column of each value's key, or of the value itself in a list; from 1."""
    mistakes: list[tuple[tuple[int, int], str]] = field(default_factory=list)
    """Line and column, and what is wrong there."""
    values: int = 0
    """How many there are."""

    def place(self, path: Path_) -> tuple[int, int]:
        """Give the place of a value, or of the nearest one around it."""
        for length in range(len(path), -1, -1):
            if (found := self.places.get(path[:length])) is not None:
                return found
        return 1, 1

    def mistake(self, path: Path_, text: str) -> None:
        """Note what is wrong with a value."""
        self.mistakes.append((self.place(path), text))

    def told(self) -> list[str]:
        """Tell all mistakes, as they stand in the file."""
        return [f"{self.file}:{line}:{at}: {text}" for (line, at), text in sorted(self.mistakes)]


def read_tree(reference: str) -> Tree:
    """Read a file, or the part of it behind `#`. Raises `PgfloError` CONFIG_RULES."""
    name, _, inside = reference.partition("#")
    tree = Tree(name)
    root = _compose(Path(name).expanduser(), name)
    for key in filter(None, inside.split(".")):
        root = next((value for word, value in _items(root) if word.value == key), None)
    if root is not None:
        tree.places[()] = _place(root)
        tree.value = _plain(root, (), tree)
    return tree


def _compose(path: Path, name: str) -> Node | None:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PgfloError(CONFIG_RULES, f"{name} is larger than 1 MB")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PgfloError(CONFIG_RULES, f"cannot read {name}: {reason}") from None
    parser = YAML(typ="rt", pure=True)
    parser.max_depth = MAX_DEPTH
    parser.composer.warn_double_anchors = False
    try:
        root: Node | None = parser.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise PgfloError(CONFIG_RULES, f"{place}: {_problem(error)}") from None
    except ReaderError as error:
        before = text[: error.position].split("\n")
        place = f"{name}:{len(before)}:{len(before[-1]) + 1}"
        raise PgfloError(CONFIG_RULES, f"{place}: a character that YAML does not allow") from None
    except (YAMLError, RecursionError) as error:
        raise PgfloError(CONFIG_RULES, f"{name}: not valid YAML ({type(error).__name__})") from None
    return root


def _problem(error: MarkedYAMLError) -> str:
    problem: str = error.problem or error.context or "not valid YAML"
    if problem.startswith("but ") and error.context:
        problem = f"{error.context}, {problem}"
    # Whom the rest would advise is us.
    return problem.partition(", if necessary")[0]


def _items(node: Node | None) -> Iterator[tuple[Node, Node]]:
    if isinstance(node, MappingNode):
        yield from node.value


def _plain(node: Node, path: Path_, tree: Tree) -> Any:  # noqa: ANN401 - whatever the file holds
    tree.values += 1
    if tree.values > MAX_VALUES or len(path) > MAX_DEPTH:
        line, column = _place(node)
        text = "aliases make too much of this"
        raise PgfloError(CONFIG_RULES, f"{tree.file}:{line}:{column}: {text}")
    match node:
        case MappingNode():
            taken: dict[str, Any] = {}
            for key, value in node.value:
                word = key.value if isinstance(key, ScalarNode) else None
                if not word:
                    tree.mistakes.append((_place(key), "a key must be a word"))
                elif word in taken:
                    first = tree.places[*path, word][0]
                    text = f"{word} stands here again, first in line {first}"
                    tree.mistakes.append((_place(key), text))
                else:
                    tree.places[*path, word] = _place(key)
                    taken[word] = _plain(value, (*path, word), tree)
            return taken
        case SequenceNode():
            for number, value in enumerate(node.value):
                tree.places[*path, number] = _place(value)
            return [_plain(value, (*path, n), tree) for n, value in enumerate(node.value)]
        case ScalarNode() if node.tag != NULL_TAG and (node.value or node.style):
            return str(node.value)
        case _:
            return None


def _place(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
