"""One row through the rules, for eyes; rules without a group, for lint.

Upstream: `pgflo rules test` and `pgflo rules lint`. Downstream: programs of the core: what is shown
is what a worker would do.
Invariant: without a database nothing is called a mistake that depends on a column's type or on the
key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pgflo.broker.records import ColumnRecord, TableRecord, TableState
from pgflo.errors import USAGE, PgfloError
from pgflo.rules import models
from pgflo.rules.bind import DEFAULT_SCHEMA
from pgflo.rules.destinations import destined
from pgflo.rules.read import UNQUALIFIED
from pgflo.source.patterns import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pgflo.rules.bind import Bound
    from pgflo.rules.read import Placed, Written

TEXT_OID, BOOL_OID, INT8_OID, NUMERIC_OID = 25, 16, 20, 1700
OPERATIONS = {"insert": "I", "update": "U", "delete": "D"}

Row = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a row at one destination."""

    table: str
    operation: str
    """Empty: nothing."""
    presence: str
    """What is known of the row there, where that is not what the operation says."""
    values: Row
    dropped_by: str
    changed_by: dict[str, list[str]]
    """Column at the destination → where the rules stand that made another text of it."""


def read_row(text: str, flag: str) -> tuple[Row, dict[str, int]]:
    """Read a JSON object as PostgreSQL would write its values; guess the type of each.

    Raises `PgfloError` USAGE.
    """
    try:
        # Numbers stay as they were written.
        row = json.loads(text, parse_float=_Number, parse_int=_Integer)
    except ValueError as error:
        raise PgfloError(USAGE, f"{flag} is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise PgfloError(USAGE, f"{flag} needs a JSON object: '{{\"id\": 1}}'")
    return {name: _text(value) for name, value in row.items()}, {
        name: _type_of(value) for name, value in row.items()
    }


class _Number(str):
    __slots__ = ()


class _Integer(str):
    __slots__ = ()


def _text(value: Any) -> str | None:  # noqa: ANN401 - whatever JSON holds
    match value:
        case None:
            return None
        case bool():
            return "t" if value else "f"
        case str():
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


def _type_of(value: object) -> int:
    match value:
        case bool():
            return BOOL_OID
        case _Integer():
            return INT8_OID
        case _Number():
            return NUMERIC_OID
        case _:
            return TEXT_OID


def guessed_table(name: tuple[str, str], types: dict[str, int]) -> TableRecord:
    """Describe a table by a row of it; `id` is its key, if it has one."""
    schema, table = name
    columns = [
        ColumnRecord(column, oid, "", -1, oid, category="S" if oid == TEXT_OID else "")
        for column, oid in types.items()
    ]
    key = ["id"] if "id" in types else []
    return TableRecord(
        1, schema or DEFAULT_SCHEMA, table, None, columns, key, "d", TableState.READY
    )


def imagined_tables(written: Written) -> list[TableRecord]:
    """Make up the tables that files name, with the columns that they name."""
    columns: dict[tuple[str, str], dict[str, None]] = {}
    everywhere = [each.rule.column for each in written.rules if each.table is None]
    for rule in written.rules:
        if rule.table is not None:
            columns.setdefault(rule.table, {})[rule.rule.column] = None
    for route in written.routes:
        names = columns.setdefault(route.source, {})
        names |= dict.fromkeys(pair.source for pair in route.route.column_mappings)
        names |= dict.fromkeys(when.column for when in route.route.when)
    if everywhere and not columns:
        columns[DEFAULT_SCHEMA, "any_table"] = {}
    tables = []
    for number, (name, named) in enumerate(columns.items(), 1):
        types = dict.fromkeys((*named, *everywhere), TEXT_OID)
        table = guessed_table(name, types)
        tables.append(replace(table, oid=number, key=[]))
    return tables


def is_named(table: TableRecord, name: tuple[str, str]) -> bool:
    """Whether a name, with or without its schema, means a table."""
    return table.name == name[1] and name[0] in (UNQUALIFIED, table.schema)


def outcomes(
    bound: Bound, table: TableRecord, operation: str, row: Row, old: Row | None
) -> list[Outcome]:
    """Tell what becomes of a row. Raises `_core.RulesError` for a value not of its type."""
    names = [column.name for column in table.columns]
    labels = bound.spec.labels
    program = bound.programs[table.oid]
    before = None
    if old is not None:
        before = set(old) >= set(names), [old.get(name) for name in names]
    elif operation == "delete":
        before = table.identity == "f", [row.get(name) for name in names]
    new = [] if operation == "delete" else [row.get(name) for name in names]
    trials, counts = program.trial(OPERATIONS[operation], before, new, len(labels))
    changing: dict[str, list[str]] = {}
    for number, _, changed in counts:
        if changed:
            rule = bound.spec.rules[number]
            changing.setdefault(rule.column, []).append(f"{rule.kind} {rule.label}")
    return [
        Outcome(
            to.label,
            op,
            presence,
            dict(zip((here for _, here in to.columns), values, strict=False)),
            "" if dropping is None else labels[dropping],
            {
                here: changing[source]
                for source, here in to.columns
                if values and source in changing
            },
        )
        for to, (op, presence, dropping, values) in zip(destined(table, bound), trials, strict=True)
    ]


def unsure_deletes(written: Written, tables: Iterable[TableRecord]) -> list[str]:
    """Name filters on columns that a DELETE of these tables of the source does not carry."""
    notes = []
    for place, rule, name in _filters(written):
        for table in tables:
            is_told = table.identity == "f" or rule.column in table.key
            if is_told or rule.column not in {column.name for column in table.columns}:
                continue
            if name is None or is_named(table, name) or _is_root(table, name):
                of = f"{quote(table.schema)}.{quote(table.name)}"
                notes.append(
                    f'{place}: changes of {of} do not tell "{rule.column}" as it was before:'
                    f" a delete {_becomes(rule)}. `ALTER TABLE {of} REPLICA IDENTITY FULL` at the"
                    " source lets them tell it"
                )
    return notes


def perhaps_unsure_deletes(written: Written) -> list[str]:
    """Name all filters, where nobody knows which columns a DELETE carries."""
    notes = []
    for place, rule, name in _filters(written):
        of = "its table" if name is None else ".".join(quote(part) for part in name if part)
        notes.append(
            f'{place}: if "{rule.column}" is no key of {of}, changes do not tell it as it was'
            f" before: a delete {_becomes(rule)}. REPLICA IDENTITY FULL at the source lets them"
            " tell it"
        )
    return notes


def _filters(
    written: Written,
) -> Iterator[tuple[Placed, models.FilterRule, tuple[str, str] | None]]:
    """Give the filters that deletes are asked by."""
    for each in written.rules:
        if isinstance(each.rule, models.FilterRule) and "DELETE" in each.rule.operations:
            yield each.place, each.rule, each.table


def _becomes(rule: models.FilterRule) -> str:
    """Tell what becomes of a delete that does not carry the column."""
    allows = rule.allow_empty_deletes
    if allows is None:
        allows = rule.parameters.allow_empty_deletes
    return "is dropped, and its row stays" if allows is False else "passes in any case"


def _is_root(table: TableRecord, name: tuple[str, str]) -> bool:
    root = table.root
    return root is not None and root[1] == name[1] and name[0] in (UNQUALIFIED, root[0])
