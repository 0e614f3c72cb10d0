"""One row through the rules, for eyes; rules without a group, for lint.

Upstream: `pgflo rules test` and `pgflo rules lint`. Downstream: programs of the core: what is shown
is what a worker would do.
Invariant: without a database nothing is said that depends on a column's type or on the key.
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

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgflo.rules.bind import Bound
    from pgflo.rules.read import Written

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
    trials, _ = program.trial(OPERATIONS[operation], before, new, len(labels))
    return [
        Outcome(
            to.label,
            op,
            presence,
            dict(zip((here for _, here in to.columns), values, strict=False)),
            "" if rule is None else labels[rule],
        )
        for to, (op, presence, rule, values) in zip(destined(table, bound), trials, strict=True)
    ]


def unsure_deletes(written: Written, tables: Iterable[TableRecord]) -> list[str]:
    """Name filters on columns that a DELETE does not carry."""
    notes = []
    for each in written.rules:
        rule = each.rule
        if not isinstance(rule, models.FilterRule):
            continue
        for table in tables:
            names = {column.name for column in table.columns}
            concerns = each.table is None or is_named(table, each.table)
            if not concerns or rule.column not in names:
                continue
            if table.identity != "f" and rule.column not in table.key:
                name = f"{table.schema}.{table.name}"
                notes.append(
                    f'{each.place}: changes of {name} do not tell "{rule.column}" as it was before:'
                    f" a delete passes in any case. `ALTER TABLE {name} REPLICA IDENTITY FULL` at"
                    " the source lets them"
                )
    return notes
