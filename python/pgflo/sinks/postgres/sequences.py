"""Moves the destination's sequences to where the source's stand, and never back.

Upstream: the worker, with what the replicator read last. Downstream: `setval`.
Invariant: a sequence moves only in its own direction, so that no number is given out twice, whoever
uses the destination meanwhile. One that starts over by itself (CYCLE) has no such direction: it
follows each new reading.

A sequence that was restarted at the source is ahead here until the source has passed it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg
    from psycopg.rows import TupleRow

    from pgflo.broker.records import SequenceRecord

log = structlog.get_logger("pgflo.sinks.postgres")

LOCK_TIMEOUT_MS = 500
"""Less than the server's deadlock_timeout: whoever locks a sequence has more important work, and a
later round sets it."""

A_STATEMENT = 500
"""Sequences that one statement moves."""

FIND = """
SELECT w.place - 1, c.oid::int8, n.nspname, c.relname, s.seqmin, s.seqmax, p.may_set,
       CASE WHEN p.may_set THEN pg_catalog.pg_sequence_last_value(c.oid) END
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
    WITH ORDINALITY AS w (schema, name, table_schema, table_name, column_name, place)
CROSS JOIN LATERAL (
    SELECT COALESCE(
        (
            SELECT d.objid FROM pg_catalog.pg_class t
            JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
            JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attname = w.column_name
            JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
                AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
            JOIN pg_catalog.pg_sequence q ON q.seqrelid = d.objid
            WHERE tn.nspname = w.table_schema AND t.relname = w.table_name
            ORDER BY d.deptype DESC, d.objid LIMIT 1
        ),
        (
            SELECT sc.oid FROM pg_catalog.pg_class sc
            JOIN pg_catalog.pg_namespace sn ON sn.oid = sc.relnamespace
            WHERE sc.relkind = 'S' AND sn.nspname = w.schema AND sc.relname = w.name
        )
    ) AS oid
) f
JOIN pg_catalog.pg_class c ON c.oid = f.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
CROSS JOIN LATERAL (
    SELECT pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
        AND pg_catalog.has_sequence_privilege(c.oid, 'UPDATE')
        AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
) AS p (may_set)
"""
"""The sequence of the same column, whatever it is called; else the one of the same name."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A sequence of the destination that is to stand where one of the source does."""

    oid: int
    schema: str
    name: str
    wanted: SequenceRecord


class Sequences:
    """Moves sequences; remembers what it has told and where it has put those that start over."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()
        self._put: dict[str, tuple[int, bool]] = {}

    def advance(
        self, conn: psycopg.Connection[TupleRow], sequences: Sequence[SequenceRecord]
    ) -> int:
        """Move those that are behind; give how many. Raises `psycopg.Error`."""
        conn.execute(
            "SELECT pg_catalog.set_config('lock_timeout', %s, false)", (str(LOCK_TIMEOUT_MS),)
        )
        found = list(self._find(conn, sequences))
        moved = 0
        for first in range(0, len(found), A_STATEMENT):
            some = found[first : first + A_STATEMENT]
            moved += conn.execute(sql.SQL(" UNION ALL ").join(map(_setval, some))).rowcount
        for one in found:
            self._put[one.wanted.label] = _state(one.wanted)
        return moved

    def _find(
        self, conn: psycopg.Connection[TupleRow], sequences: Sequence[SequenceRecord]
    ) -> Iterator[_Found]:
        """Give what is to be looked at; say once what cannot be set."""
        owners = [sequence.table or ("", "") for sequence in sequences]
        rows = conn.execute(
            FIND,
            (
                [sequence.schema for sequence in sequences],
                [sequence.name for sequence in sequences],
                [schema for schema, _ in owners],
                [name for _, name in owners],
                [sequence.column for sequence in sequences],
            ),
        ).fetchall()
        lacking = set(range(len(sequences))) - {row[0] for row in rows}
        for place in sorted(lacking):
            self._tell(sequences[place], "the destination has none of that name")
        for place, oid, schema, name, least, most, may_set, last_value in rows:
            wanted = sequences[place]
            if not may_set:
                self._tell(wanted, "GRANT SELECT, UPDATE ON SEQUENCE … TO the --target-user")
            elif not least <= wanted.last_value <= most:
                self._tell(wanted, "the source's value is beyond its MINVALUE or MAXVALUE here")
            elif self._may_be_behind(wanted, last_value):
                yield _Found(oid, schema, name, wanted)

    def _may_be_behind(self, wanted: SequenceRecord, last_value: int | None) -> bool:
        """Whether it is worth a statement; `last_value` is none if no number was taken yet."""
        if wanted.cycles:
            return self._put.get(wanted.label) != _state(wanted)
        if last_value is None:
            return True
        forward = wanted.last_value - last_value
        return forward > 0 if wanted.increment > 0 else forward < 0

    def _tell(self, sequence: SequenceRecord, why: str) -> None:
        if (sequence.label, why) not in self._told:
            self._told.add((sequence.label, why))
            log.warning("a sequence is not set", sequence=sequence.label, why=why)


def _state(sequence: SequenceRecord) -> tuple[int, bool]:
    return sequence.last_value, sequence.is_called


def _setval(found: _Found) -> sql.Composed:
    """Set one sequence if it is behind: compared and set by one statement."""
    wanted = found.wanted
    if wanted.cycles:
        behind = sql.SQL("(last_value, is_called) <> ({value}, {called})")
    elif wanted.increment > 0:
        behind = sql.SQL("(last_value, is_called) < ({value}, {called})")
    else:
        behind = sql.SQL("(-last_value::numeric, is_called) < (-{value}::numeric, {called})")
    # As text: the least bigint is no number that SQL can write down.
    value = sql.SQL("{}::int8").format(sql.Literal(str(wanted.last_value)))
    called = sql.Literal(wanted.is_called)
    return sql.SQL(
        "SELECT pg_catalog.setval({oid}::oid::regclass, {value}, {called})"
        " FROM {sequence} WHERE {behind}"
    ).format(
        oid=sql.Literal(found.oid),
        value=value,
        called=called,
        sequence=sql.Identifier(found.schema, found.name),
        behind=behind.format(value=value, called=called),
    )
