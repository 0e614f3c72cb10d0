"""What the native core takes: rules and routes with every name resolved.

Upstream: `bind`. Downstream: `_core.RuleSet`, in every process that compiles; pickled on the way.
Invariant: the same values make the same programs, wherever they are compiled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgflo import _core
from pgflo.broker.records import RuleRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgflo.broker.records import TableRecord

Name = tuple[str, str]
"""Schema and name."""

OPERATIONS = ("INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of a column with a constant; None is NULL."""

    label: str
    column: str
    operator: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `kind` tells which of the later fields mean something."""

    label: str
    table: Name | None
    """None: every table that has the column."""
    column: str
    operations: tuple[str, ...]
    kind: str
    """filter, mask, regex or exclude_column."""
    operator: str = ""
    value: str | None = None
    allow_empty_deletes: bool | None = None
    mask_char: str = "*"
    pattern: str = ""
    replace: str = ""
    allow_key: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One route."""

    label: str
    source: Name
    destination: Name | None
    columns: tuple[tuple[str, str], ...]
    operations: tuple[str, ...]
    when: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class GroupTable:
    """A table of the group."""

    oid: int
    schema: str
    name: str
    root: Name | None


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything that programs are compiled from."""

    rules: tuple[Rule, ...] = ()
    routes: tuple[Route, ...] = ()
    tables: tuple[GroupTable, ...] = ()
    types: Mapping[int, tuple[int, bool, bool]] = field(default_factory=dict)
    """Types that are not built in: the one beneath a domain, whether it is an enum, a string."""

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.rules or self.routes)

    def compiled(self) -> _core.RuleSet:
        """Hand it to the core."""
        return _core.RuleSet(self.rules, self.routes, self.tables, self.types)

    @property
    def labels(self) -> list[str]:
        """Where each rule and then each route was written, by the number it is counted under."""
        return [rule.label for rule in self.rules] + [route.label for route in self.routes]

    @property
    def counted(self) -> list[RuleRecord]:
        """What each rule and then each route is, in the order in which they are counted."""
        rules = [
            RuleRecord(
                number,
                rule.kind,
                ".".join(rule.table) if rule.table is not None else "*",
                rule.column,
                "",
                rule.label,
            )
            for number, rule in enumerate(self.rules, 1)
        ]
        routes = [
            RuleRecord(
                number,
                "route",
                ".".join(route.source),
                "",
                ".".join(route.destination or route.source),
                route.label,
            )
            for number, route in enumerate(self.routes, len(rules) + 1)
        ]
        return rules + routes


NOTHING = Spec()


def compiled(rules: _core.RuleSet, table: TableRecord) -> _core.Program:
    """Compile what becomes of a table of the group. Raises `_core.RulesError`."""
    full = table.identity == "f"
    columns = [
        (column.name, column.type_oid, column.typmod, full or column.name in table.key)
        for column in table.columns
    ]
    return rules.compile(table.oid, (table.schema, table.name), table.identity, columns)
