"""Names of a rules or routing file → the group's tables.

Upstream: `read`, and the tables of the group's record. Downstream: `spec`, compiled by the core,
and `destinations`.
Invariants: a name without a schema means a table of `public`, else the only table of the group
that has it; what names no table is a mistake, and is told with all others.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pgflo import _core
from pgflo.errors import CONFIG_RULES, PgfloError
from pgflo.rules import models
from pgflo.rules.read import UNQUALIFIED, Placed
from pgflo.rules.spec import Condition, GroupTable, Route, Rule, Spec, compiled
from pgflo.source.patterns import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pgflo.broker.records import TableRecord
    from pgflo.rules.read import Written, WrittenRoute, WrittenRule
    from pgflo.rules.spec import Name

DEFAULT_SCHEMA = "public"
FIRST_OWN_OID = 10_000
"""Types from here on are not built in."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Rules that fit the group."""

    spec: Spec
    programs: Mapping[int, _core.Program]
    """By the table's OID at the source."""


def bind(written: Written, tables: Sequence[TableRecord]) -> Bound:
    """Resolve names and compile. Raises `PgfloError` CONFIG_RULES with all mistakes."""
    binder = _Binder(tables)
    spec = Spec(
        rules=tuple(rule for each in written.rules if (rule := binder.rule(each)) is not None),
        routes=tuple(route for each in written.routes if (route := binder.route(each)) is not None),
        tables=tuple(GroupTable(t.oid, t.schema, t.name, t.root) for t in tables),
        types=_types(tables),
    )
    programs = {}
    rules = spec.compiled()
    for table in tables:
        try:
            programs[table.oid] = compiled(rules, table)
        except _core.RulesError as error:
            binder.mistakes += [f"{label}: {text}" for label, text in error.mistakes]
    binder.check_everywhere(spec)
    if binder.mistakes:
        raise PgfloError(CONFIG_RULES, "\n".join(dict.fromkeys(binder.mistakes)))
    return Bound(spec, programs)


def digests(bound: Bound | None, tables: Iterable[TableRecord]) -> dict[str, list[str]]:
    """Tell for each table what is made of it, where anything is: a short text for each rule.

    That is what kind of rule it is and on which column, or where a route leads, and a digest of the
    rest of it, behind the last blank. Where it was written is not told.
    """
    if bound is None:
        return {}
    told = {}
    for table in tables:
        names = {(table.schema, table.name), table.root, None}
        rules = [
            _digest(f"{rule.kind} {rule.column}", dataclasses.replace(rule, label=""))
            for rule in bound.spec.rules
            if rule.table in names
            and (rule.table or any(column.name == rule.column for column in table.columns))
        ]
        routes = [
            _digest(f"route {'.'.join(route.destination or route.source)}", _without_places(route))
            for route in bound.spec.routes
            if route.source in names
        ]
        if rules or routes:
            told[f"{table.schema}.{table.name}"] = rules + routes
    return told


def _digest(title: str, what: Rule | Route) -> str:
    written = repr(dataclasses.astuple(what)).encode()
    return f"{title} {hashlib.blake2b(written, digest_size=8).hexdigest()}"


def changes(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Tell how two lists of `digests` differ: what is added, removed, changed, or merely moved."""
    titles = [Counter(text.rpartition(" ")[0] for text in of) for of in (before, now)]
    had, has = titles
    gone = Counter(before) - Counter(now)
    lost = Counter(text.rpartition(" ")[0] for text in gone.elements())
    told = []
    for title in sorted(had | has):
        word = "added" if has[title] > had[title] else "removed"
        if has[title] == had[title]:
            word = "changed"
        if has[title] != had[title] or lost[title]:
            told.append(f"{title} {word}")
    return told or (["order changed"] if list(before) != list(now) else [])


def _without_places(route: Route) -> Route:
    when = tuple(dataclasses.replace(condition, label="") for condition in route.when)
    return dataclasses.replace(route, label="", when=when)


def _types(tables: Iterable[TableRecord]) -> dict[int, tuple[int, bool, bool]]:
    return {
        column.type_oid: (column.base_oid, column.is_enum, column.category == "S")
        for table in tables
        for column in table.columns
        if column.type_oid >= FIRST_OWN_OID and column.base_oid
    }


@dataclass(slots=True)
class _Binder:
    tables: Sequence[TableRecord]
    mistakes: list[str] = field(default_factory=list)

    def rule(self, written: WrittenRule) -> Rule | None:
        table = None
        if written.table is not None:
            table = self._find(written.table, written.place)
            if table is None:
                return None
        rule = written.rule
        common = (str(written.place), table, rule.column, tuple(rule.operations))
        match rule:
            case models.FilterRule(parameters=parameters):
                allow = (
                    parameters.allow_empty_deletes
                    if rule.allow_empty_deletes is None
                    else rule.allow_empty_deletes
                )
                return Rule(
                    *common,
                    "filter",
                    operator=parameters.operator,
                    value=parameters.value,
                    allow_empty_deletes=allow,
                )
            case models.TransformRule(parameters=models.MaskParameters(mask_char=mask_char)):
                return Rule(*common, "mask", mask_char=mask_char, allow_key=rule.allow_key)
            case models.TransformRule(parameters=models.RegexParameters() as parameters):
                return Rule(
                    *common,
                    "regex",
                    pattern=parameters.pattern,
                    replace=parameters.replace,
                    allow_key=rule.allow_key,
                )
            case _:
                return Rule(*common, "exclude_column")

    def route(self, written: WrittenRoute) -> Route | None:
        source = self._find(written.source, written.place)
        if source is None:
            return None
        route, label = written.route, str(written.place)
        destination = written.destination
        if destination is not None and destination[0] == UNQUALIFIED:
            destination = (source[0], destination[1])
        return Route(
            label,
            source,
            destination,
            tuple((pair.source, pair.destination) for pair in route.column_mappings),
            tuple(route.operations),
            tuple(
                Condition(str(place), when.column, when.operator, when.value)
                for place, when in zip(written.when, route.when, strict=True)
            ),
        )

    def check_everywhere(self, spec: Spec) -> None:
        """See that a rule for every table concerns one."""
        columns = {column.name for table in self.tables for column in table.columns}
        for rule in spec.rules:
            if rule.table is None and rule.column not in columns:
                meant = _meant(rule.column, sorted(columns))
                self.mistakes.append(
                    f'{rule.label}: no table of the group has a column "{rule.column}"{meant}'
                )

    def _find(self, name: tuple[str, str], place: Placed) -> Name | None:
        schema, table = name
        known = self._names()
        if schema == UNQUALIFIED:
            schemas = known.get(table, set())
            if DEFAULT_SCHEMA in schemas or len(schemas) == 1:
                return (DEFAULT_SCHEMA if DEFAULT_SCHEMA in schemas else min(schemas)), table
            if schemas:
                listed = ", ".join(f"{quote(s)}.{quote(table)}" for s in sorted(schemas))
                self.mistakes.append(f"{place}: {quote(table)} may be {listed}")
                return None
        elif schema in known.get(table, set()):
            return schema, table
        wanted = f"{schema}.{table}" if schema else table
        meant = _meant(table, sorted(known))
        self.mistakes.append(f"{place}: the group has no table {wanted}{meant}")
        return None

    def _names(self) -> dict[str, set[str]]:
        names: dict[str, set[str]] = defaultdict(set)
        for table in self.tables:
            names[table.name].add(table.schema)
            if table.root is not None:
                names[table.root[1]].add(table.root[0])
        return names


def _meant(word: str, known: Sequence[str]) -> str:
    matches = get_close_matches(word, known, n=1, cutoff=0.6)
    return f'; did you mean "{matches[0]}"?' if matches else ""
