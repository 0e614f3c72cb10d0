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
"""What belongs to a table: the archive has only tables that are needed, so these all come along."""

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
        if entry.kind in PARTS or (entry.class_oid, entry.oid) in needed
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


def _closed(archive: Mapping[int, Entry], wanted: Iterable[int]) -> set[int]:
    chosen: set[int] = set()
    open_ = list(wanted)
    while open_:
        number = open_.pop()
        if number in archive and number not in chosen:
            chosen.add(number)
            open_ += archive[number].after
    return chosen
