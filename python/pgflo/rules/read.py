"""Rules and routing files → models, with every mistake in its place.

Upstream: the command line names files. Downstream: `bind`.
Invariant: what is returned has no mistake of form; what is raised lists all of them, as
`file:line:column: message`.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pgflo.errors import CONFIG_RULES, PgfloError
from pgflo.rules import models
from pgflo.rules.nodes import Path_, Tree, read_tree
from pgflo.rules.spec import OPERATIONS
from pgflo.source.patterns import parse

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")

TABLES = "tables"
UNQUALIFIED = ""
"""Schema of a name that names none."""
NO_SCHEMA = "\0"
"""No schema has that name."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where something was written, for labels and mistakes."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class WrittenRule:
    """A rule as it was written. `table` None: for every table that has the column."""

    place: Placed
    table: tuple[str, str] | None
    rule: models.FilterRule | models.TransformRule | models.ExcludeRule


@dataclass(frozen=True, slots=True)
class WrittenRoute:
    """A route as it was written."""

    place: Placed
    key: str
    source: tuple[str, str]
    destination: tuple[str, str] | None
    route: models.Route
    when: tuple[Placed, ...]
    """Where each condition stands."""


@dataclass(frozen=True, slots=True)
class Written:
    """What both files say."""

    rules: tuple[WrittenRule, ...] = ()
    routes: tuple[WrittenRoute, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.rules or self.routes)


def read(rules: str | None, routing: str | None) -> Written:
    """Read the files that are named. Raises `PgfloError` CONFIG with all mistakes of both."""
    trees: list[Tree] = []
    found_rules: list[WrittenRule] = []
    found_routes: list[WrittenRoute] = []
    if rules is not None:
        trees.append(tree := read_tree(rules))
        found_rules = _rules(tree)
    if routing is not None:
        trees.append(tree := read_tree(routing))
        found_routes = _routes(tree)
    if mistakes := [text for tree in trees for text in tree.told()]:
        raise PgfloError(CONFIG_RULES, "\n".join(mistakes))
    return Written(tuple(found_rules), tuple(found_routes))


def _rules(tree: Tree) -> list[WrittenRule]:
    match tree.value:
        case None:
            return []
        case list() as rules:
            return _listed(tree, rules, (), None)
        case {"tables": dict() as tables}:
            for key in tree.value.keys() - {TABLES}:
                tree.mistake((key,), f'unknown key "{key}"{_meant(key, [TABLES])}')
            found = []
            for key, rules in tables.items():
                table = _table(tree, (TABLES, key), key)
                if isinstance(rules, list):
                    found += _listed(tree, rules, (TABLES, key), table)
                elif rules is not None:
                    tree.mistake((TABLES, key), f"{key} needs a list of rules")
            return found
        case {"tables": _}:
            tree.mistake((TABLES,), "tables needs an entry `table: [rules]` for each table")
        case dict():
            key = str(next(iter(tree.value), ""))
            tree.mistake(
                (key,),
                f'unknown key "{key}"{_meant(key, [TABLES])}: rules stand in'
                " `tables: {name: [rules]}`, or in a bare list",
            )
        case _:
            tree.mistake((), "the file must hold `tables:`, or a list of rules")
    return []


def _listed(
    tree: Tree, rules: list[Any], path: Path_, table: tuple[str, str] | None
) -> list[WrittenRule]:
    found = []
    for number, written in enumerate(rules):
        where = (*path, number)
        rule = _checked(tree, where, models.RULE, written)
        if rule is None:
            continue
        if isinstance(rule, models.FilterRule) and None not in (
            rule.allow_empty_deletes,
            rule.parameters.allow_empty_deletes,
        ):
            tree.mistake((*where, "allow_empty_deletes"), "allow_empty_deletes is set twice")
        if isinstance(rule, models.ExcludeRule) and set(rule.operations) != set(OPERATIONS):
            tree.mistake(
                (*where, "operations"),
                "exclude_column leaves the column out of the table: it holds for all operations",
            )
        found.append(WrittenRule(_placed(tree, where), table, rule))
    return found


def _routes(tree: Tree) -> list[WrittenRoute]:
    if tree.value is None:
        return []
    if not isinstance(tree.value, dict):
        tree.mistake((), "the file must hold an entry `name: {source_table: …}` for each route")
        return []
    found = []
    for key, written in tree.value.items():
        route = _checked(tree, (key,), models.ROUTE, written)
        if route is None:
            continue
        source = _table(tree, (key, "source_table"), route.source_table)
        destination = None
        if route.destination_table is not None:
            destination = _table(tree, (key, "destination_table"), route.destination_table)
        when = tuple(_placed(tree, (key, "when", n)) for n in range(len(route.when)))
        found.append(WrittenRoute(_placed(tree, (key,)), key, source, destination, route, when))
    return found


def _placed(tree: Tree, path: Path_) -> Placed:
    return Placed(tree.file, *tree.places[path])


def _table(tree: Tree, path: Path_, text: str) -> tuple[str, str]:
    name = table_name(text)
    if name is None:
        tree.mistake(path, f'"{text}" is not the name of one table, as in SQL')
        return UNQUALIFIED, text
    return name


def table_name(text: str) -> tuple[str, str] | None:
    """Read the name of one table, with or without its schema; None if it is none."""
    try:
        patterns = parse([text], NO_SCHEMA)
    except PgfloError:
        return None
    if len(patterns) != 1 or patterns[0].name is None:
        return None
    schema = patterns[0].schema
    return UNQUALIFIED if schema == NO_SCHEMA else schema, patterns[0].name


def _checked(tree: Tree, path: Path_, form: TypeAdapter[T], written: object) -> T | None:
    try:
        return form.validate_python(written)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            at = _way(tree, path, each["loc"], each["type"])
            whole = str(path[-1]) if isinstance(path[-1], str) else "a rule"
            tree.mistake(at, _text(each, written, at[len(path) :], whole))
    return None


def _way(tree: Tree, path: Path_, loc: tuple[int | str, ...], kind: str) -> Path_:
    """Follow a validator's path as far as the file has it; it names kinds of rules as well."""
    way = path
    for step in loc:
        if (*way, step) in tree.places:
            way = (*way, step)
    return (*way, "type") if kind == "union_tag_invalid" else way


def _text(error: ErrorDetails, written: object, way: Path_, whole: str) -> str:
    name = next((step for step in reversed(error["loc"]) if isinstance(step, str)), whole)
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return f'unknown key "{name}"{_meant(name, _known_keys(written, way))}'
        case "missing":
            return f"{name} is missing"
        case "union_tag_not_found":
            kinds = "mask, regex" if name == "parameters" else "filter, transform, exclude_column"
            return f"type is missing: {kinds}"
        case "union_tag_invalid":
            tags = str(context["expected_tags"])
            tag = str(context["tag"])
            return f'"{tag}" is no type: {_listing(tags)}{_meant(tag, _words(tags))}'
        case "literal_error":
            return f"{name} {_no_choice(error['input'], str(context['expected']))}"
        case "bool_parsing" | "bool_type":
            return f"{name} is true or false"
        case "string_type":
            return f"{name} needs a single value"
        case "string_too_short" | "too_short":
            return f"{name} is empty"
        case "string_too_long":
            return f"{name} is one character"
        case "list_type" | "tuple_type":
            return f"{name} needs a list"
        case _:
            return f"{name} needs `key: value` entries"


def _no_choice(written: object, expected: str) -> str:
    if written is None:
        return "is empty"
    if not isinstance(written, str):
        return "needs a single value"
    return f'"{written}" is none of {_listing(expected)}{_meant(written, _words(expected))}'


def _words(listed: str) -> list[str]:
    return [word.strip(" '") for word in listed.replace(" or ", ", ").split(",")]


def _listing(listed: str) -> str:
    return ", ".join(_words(listed))


def _meant(word: object, known: list[str]) -> str:
    matches = get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f'; did you mean "{matches[0]}"?' if matches else ""


def _known_keys(written: object, way: Path_) -> list[str]:
    """Give the keys that belong beside an unknown one."""
    inner: Any = written
    for step in way[:-1]:
        inner = inner[step]
    kinds: list[type[models.Strict]]
    if "parameters" in way:
        kinds = [models.FilterParameters, models.MaskParameters, models.RegexParameters]
    elif "when" in way:
        kinds = [models.When]
    elif "column_mappings" in way:
        kinds = [models.Mapping]
    elif isinstance(inner, dict) and "type" in inner:
        kinds = [models.FilterRule, models.TransformRule, models.ExcludeRule]
    else:
        kinds = [models.Route]
    return [key for kind in kinds for key in kind.model_fields if key not in inner]
