"""Source against destination: what is there already, what differs, what has to be made and when.

Upstream: entries of both archives. Downstream: `ledger` stores the plan, `build` carries it out.
Invariant: what is there is left as it is. Where its text is not the source's, nothing is planned
at all, and every difference is named.

Entries of two databases are the same object when kind, schema and name are the same: `key` alone
decides that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.schema.choice import COMMENT, TABLE, tables_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from pgflo.schema.archive import Entry


class Stage(IntEnum):
    """When a part is made. Stored in the destination: numbers do not change."""

    BEFORE_ROWS = 0
    """Schemas, types, functions, sequences, tables."""
    KEYS = 1
    """Unique indexes and the constraints over them: what changes find their rows by."""
    AFTER_KEYS = 2
    """Other indexes, triggers, policies."""
    FOREIGN_KEYS = 3
    """Checked by the rows of two tables, which have to stand at one time."""


@dataclass(frozen=True, slots=True)
class Part:
    """Statements that are carried out in one transaction."""

    number: int
    stage: Stage
    label: str
    text: str
    after: tuple[int, ...]
    """Parts of the same plan that come first."""
    tables: tuple[int, ...]
    """Tables that it locks, by number."""
    exclusive: bool
    """Whether nothing else may work on them at the same time."""


FOREIGN_KEY = "FK CONSTRAINT"

AFTER_ROWS = frozenset(
    {
        "CONSTRAINT",
        "CHECK CONSTRAINT",
        FOREIGN_KEY,
        "INDEX",
        "INDEX ATTACH",
        "STATISTICS",
        "TRIGGER",
        "RULE",
        "POLICY",
        "ROW SECURITY",
    }
)

OF_A_TABLE = frozenset({"DEFAULT", "TABLE ATTACH"})
"""Properties that a table is made with. An identity column's sequence is another."""

TEXT_IS_TOLD = AFTER_ROWS - {"TRIGGER", "RULE", "POLICY"} | {
    TABLE,
    "TYPE",
    "DOMAIN",
    "SEQUENCE",
    "EXTENSION",
    "TABLE ATTACH",
}
"""Kinds whose differing lines are told. The others hold code, which may hold anything."""

NAMED_NOT_NULL = re.compile(r'CONSTRAINT (?:"(?:[^"]|"")+"|\w+) (?=NOT NULL\b)')
"""PostgreSQL 18 has names for these; servers before it keep none, and nothing depends on them."""

MOST_LINES = 4
MOST_DIFFERENCES = 20


def key(entry: Entry) -> str:
    """Tell which object of the destination an entry of the source is: the one of the same name."""
    return entry.label


def make_plan(
    wanted: Sequence[Entry],
    there: Iterable[Entry],
    unfinished: Collection[str],
    settled: Collection[int] = (),
) -> list[Part]:
    """Give the parts that the destination lacks.

    `unfinished` are labels that a former plan would have made, `settled` the numbers of entries
    that one of this incarnation has dealt with. Raises `PgfloError` SCHEMA_DIFFERS
    with all differences.
    """
    present = {key(entry): entry for entry in there}
    by_id = {entry.id: entry for entry in wanted}
    differences = []
    missing: list[Entry] = []
    for entry in wanted:
        if entry.id in settled:
            continue
        found = present.get(key(entry))
        if entry.kind == COMMENT and any(key(by_id[n]) in present for n in entry.after):
            continue
        if found is not None:
            if _meaning(found) != _meaning(entry):
                differences.append(_difference(entry, found))
        elif not _belongs_to(entry, by_id, present) or entry.label in unfinished:
            missing.append(entry)
        elif entry.kind != "SEQUENCE OWNED BY":
            differences.append(f"{entry.label} is missing")
    if differences:
        more = len(differences) - MOST_DIFFERENCES
        told = differences[:MOST_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])
        raise PgfloError(
            errors.SCHEMA_DIFFERS, "the destination differs from the source: " + "; ".join(told)
        )
    return list(_parts(missing, by_id))


def _belongs_to(entry: Entry, by_id: Mapping[int, Entry], present: Collection[str]) -> bool:
    """Whether it is a property of something that the destination has already."""
    owners = [by_id[number] for number in entry.after if number in by_id]
    if entry.kind == "SEQUENCE OWNED BY":
        return any(key(owner) in present for owner in owners)
    if entry.kind in OF_A_TABLE or is_identity(entry):
        tables = [owner for owner in owners if owner.kind == TABLE]
        return bool(tables) and all(key(table) in present for table in tables)
    return False


def is_identity(entry: Entry) -> bool:
    """Whether it is the sequence of an identity column, which is made by ALTER TABLE."""
    return entry.kind == "SEQUENCE" and entry.text.startswith("ALTER TABLE ")


def _meaning(entry: Entry) -> str:
    return NAMED_NOT_NULL.sub("", entry.text) if entry.kind == TABLE else entry.text


def _difference(wanted: Entry, found: Entry) -> str:
    if wanted.kind not in TEXT_IS_TOLD:
        return f"{wanted.label} is another one"
    ours, theirs = _lines(_meaning(wanted)), _lines(_meaning(found))
    lacks = [line for line in ours if line not in theirs][:MOST_LINES]
    has = [line for line in theirs if line not in ours][:MOST_LINES]
    if not lacks and not has:
        return f"{wanted.label} has another order"
    told = [f"at the source `{'`, `'.join(lacks)}`"] if lacks else []
    told += [f"at the destination `{'`, `'.join(has)}`"] if has else []
    return f"{wanted.label} has {', '.join(told)}"


def _lines(text: str) -> list[str]:
    return [line.strip().rstrip(",;") for line in text.splitlines() if line.strip()]


def _parts(missing: Sequence[Entry], by_id: Mapping[int, Entry]) -> Iterator[Part]:
    stages: dict[int, Stage] = {}
    for entry in missing:
        stages[entry.id] = stage = _stage(entry, stages)
        yield Part(
            number=entry.id,
            stage=stage,
            label=entry.label,
            text=entry.text,
            after=tuple(number for number in entry.after if number in stages),
            tables=tuple(sorted(tables_of(entry, by_id))),
            exclusive=entry.kind not in ("INDEX", "STATISTICS"),
        )


def _stage(entry: Entry, stages: Mapping[int, Stage]) -> Stage:
    if entry.kind == "CONSTRAINT" or entry.text.startswith("CREATE UNIQUE INDEX "):
        return Stage.KEYS
    if entry.kind == FOREIGN_KEY:
        return Stage.FOREIGN_KEYS
    needed = [stages[number] for number in entry.after if number in stages]
    if entry.kind in ("INDEX ATTACH", COMMENT):
        return max(needed, default=Stage.BEFORE_ROWS)
    return Stage.AFTER_KEYS if entry.kind in AFTER_ROWS else Stage.BEFORE_ROWS
