"""Which entries of the source's archive are brought: the group's tables and what they need.

Upstream: `archive`, `needs`. Downstream: `plan`.
Invariant: with an entry come all that it needs. Views, functions and types that no table of the
group needs are left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pgflo.schema.archive import Entry

PARTS = frozenset(
    {
        "DEFAULT",
        "SEQUENCE",
        "SEQUENCE OWNED BY",
        "TABLE ATTACH",
        "INDEX ATTACH",
        "CONSTRAINT",
        "CHECK CONSTRAINT",
        "FK CONSTRAINT",
        "INDEX",
        "STATISTICS",
        "TRIGGER",
        "RULE",
        "POLICY",
        "ROW SECURITY",
    }
)
"""What belongs to tables, and comes along when all of those do."""

TABLE = "TABLE"

COMMENT = "COMMENT"
CAST = "CAST"


def choose(
    archive: Mapping[int, Entry],
    needed: Collection[tuple[int, int]],
    left_out: Collection[tuple[int, int]],
) -> list[Entry]:
    """Give the entries that are needed (class and OID), in the order to restore."""
    refused = {entry.id for entry in archive.values() if (entry.class_oid, entry.oid) in left_out}
    wanted = [
        entry.id
        for entry in archive.values()
        if (entry.class_oid, entry.oid) in needed
        or (entry.kind in PARTS and _is_of(tables_of(entry, archive), archive, needed))
    ]
    chosen = _closed(archive, (number for number in wanted if number not in refused))
    chosen |= {
        entry.id
        for entry in archive.values()
        if entry.kind == CAST and entry.after and chosen.issuperset(entry.after)
    }
    # An extension brings its comment by itself.
    chosen |= {
        entry.id
        for entry in archive.values()
        if entry.kind == COMMENT
        and entry.after
        and chosen.issuperset(entry.after)
        and not entry.name.startswith("EXTENSION ")
    }
    return [entry for entry in archive.values() if entry.id in chosen]


def tables_of(entry: Entry, archive: Mapping[int, Entry]) -> set[int]:
    """Give the tables that a part works on: those it needs, and those of the parts it needs."""
    found: set[int] = set()
    open_ = [number for number in entry.after if number in archive]
    while open_:
        needed = archive[open_.pop()]
        if needed.kind == TABLE:
            found.add(needed.id)
        elif needed.kind in PARTS:
            open_ += [number for number in needed.after if number in archive]
    return found


def _is_of(
    tables: set[int], archive: Mapping[int, Entry], needed: Collection[tuple[int, int]]
) -> bool:
    return bool(tables) and all(
        (archive[table].class_oid, archive[table].oid) in needed for table in tables
    )


def _closed(archive: Mapping[int, Entry], wanted: Iterable[int]) -> set[int]:
    chosen: set[int] = set()
    open_ = list(wanted)
    while open_:
        number = open_.pop()
        if number in archive and number not in chosen:
            chosen.add(number)
            open_ += archive[number].after
    return chosen
