"""Where the rows of the group's tables go: each table's destinations, under their own names.

Upstream: `bind`, or nothing: without rules a table goes to the table of its name. Downstream:
whoever prepares the destination, spreads changes over shards or loads copied rows.
Invariant: a destination is named by the OID by which rewritten changes name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgflo import _core
    from pgflo.broker.records import TableRecord
    from pgflo.rules.bind import Bound
    from pgflo.rules.spec import Name


@dataclass(frozen=True, slots=True)
class Destined:
    """A destination of a source table."""

    oid: int
    """In changes: the source's own, or a private one."""
    schema: str
    name: str
    root: Name | None
    """The partition root through which its rows may go; none where a route names the table."""
    columns: tuple[tuple[str, str], ...]
    """Names at the source and here."""
    transformed: frozenset[str]
    """Columns of the source whose values are changed."""
    takes_inserts: bool
    is_own: bool
    """It is the table that rows go to without a route."""

    @property
    def label(self) -> str:
        """schema.table, for people."""
        return f"{self.schema}.{self.name}"

    def here(self, names: Iterable[str]) -> tuple[str, ...]:
        """Give the names that columns of the source have here; those left out are left out."""
        known = dict(self.columns)
        return tuple(known[name] for name in names if name in known)


def own(oid: int, schema: str, name: str, root: Name | None, columns: Iterable[str]) -> Destined:
    """Name the table that rows go to without a rule."""
    same = tuple((column, column) for column in columns)
    return Destined(oid, schema, name, root, same, frozenset(), takes_inserts=True, is_own=True)


def destined(table: TableRecord, bound: Bound | None) -> tuple[Destined, ...]:
    """Tell where a table of the group goes."""
    names = [column.name for column in table.columns]
    if bound is None:
        return (own(table.oid, table.schema, table.name, table.root, names),)
    program = bound.programs[table.oid]
    return tuple(routed_to(routed, names, table.root) for routed in program.routes)


def routed_to(routed: _core.Routed, names: list[str], root: Name | None) -> Destined:
    """Name the columns of a compiled route."""
    return Destined(
        routed.oid,
        routed.schema,
        routed.name,
        None if routed.is_renamed else root,
        tuple((names[number], name) for number, name in routed.columns),
        frozenset(names[number] for number in routed.transformed),
        routed.takes_inserts,
        not routed.is_renamed,
    )
