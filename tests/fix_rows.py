"""Fixture `rows`: one table's rows as they reach rules: COPY text, COPY binary, change stream.

Upstream: `fix_changes`. Downstream: property tests that put the same rules over all three.
Invariant: what is given was written by the server, under the settings that pgflo pins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql
from tests.fix_changes import Changes, bodies

from pgflo import _core
from pgflo.rules.spec import GroupTable, Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fix_postgres import Database

    from pgflo.rules.spec import Route, Rule
    from pgflo.sinks.contract import Body

T = ("public", "t")
PIECE_BYTES = 37
"""Copied rows are fed in pieces that end anywhere."""

Row = tuple[bytes | None, ...]

_COLUMNS = """
SELECT attname::text, atttypid::bigint, atttypmod::int, base.oid::bigint, base.typtype = 'e',
    base.typcategory = 'S'
FROM pg_attribute a, LATERAL (
    WITH RECURSIVE beneath AS (
        SELECT * FROM pg_type WHERE oid = a.atttypid
        UNION ALL SELECT t.* FROM beneath b JOIN pg_type t ON t.oid = b.typbasetype
    ) SELECT * FROM beneath WHERE typtype <> 'd') base
WHERE attrelid = 't'::regclass AND attnum > 0 ORDER BY attnum
"""


@dataclass(frozen=True)
class Rows:
    """Rows of table `t`, whose first column is its key, in every form."""

    oid: int
    columns: list[tuple[str, int, int, bool]]
    types: dict[int, tuple[int, bool, bool]]
    text: bytes
    binary: bytes | None
    """None: a column's type keeps it from travelling in binary."""
    stream: list[Body]

    def through(self, rules: Sequence[Rule], routes: Sequence[Route] = ()) -> dict[str, list[Row]]:
        """Give what one destination gets of each form."""
        spec = Spec(tuple(rules), tuple(routes), (GroupTable(self.oid, *T, None),), self.types)
        compiled = spec.compiled()
        program = compiled.compile(self.oid, T, "d", self.columns)
        found = {"text": self._copied(program, len(spec.labels), None)}
        if self.binary is not None:
            converter = _core.BinaryToText([column[1] for column in self.columns])
            found["binary"] = self._copied(program, len(spec.labels), converter)
        found["stream"] = self._streamed(compiled)
        return found

    def _copied(
        self, program: _core.Program, labels: int, to_text: _core.BinaryToText | None
    ) -> list[Row]:
        rewriter = _core.CopyRewriter(program, labels)
        copied, passed, count = self.text if to_text is None else self.binary or b"", b"", 0
        for start in range(0, len(copied), PIECE_BYTES):
            piece = copied[start : start + PIECE_BYTES]
            ((data, rows),) = rewriter.feed(piece if to_text is None else to_text.feed(piece))
            passed += data
            count += rows
        if to_text is not None:
            to_text.finish()
        assert rewriter.finish()[0] == len(self.text.splitlines())
        found = [tuple(map(_unescaped, line.split(b"\t"))) for line in passed.split(b"\n")[:-1]]
        assert len(found) == count
        return found

    def _streamed(self, compiled: _core.RuleSet) -> list[Row]:
        rewriter = _core.Rewriter(compiled)
        found: list[Row] = []
        after = (0, 0)
        for body in self.stream:
            data, passed, _ = rewriter.rewrite(body.data, body.prev, after)
            after = body.end
            plain = without_notes(bytes(body.data if data is None else data))
            rows = [message[2] for message in _core.decode_messages(plain) if message[0] == "I"]
            assert len(rows) == passed
            found += [tuple(cell[1] for cell in row) for row in rows]
        return found


def _unescaped(field: bytes) -> bytes | None:
    """Read a field of COPY's text format, as the manual tells it."""
    if field == b"\\N":
        return None
    letters = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
    parts = iter(field.split(b"\\"))
    plain = next(parts)
    for part in parts:
        # An escaped backslash leaves an empty part behind.
        plain += letters.get(part[:1], part[:1]) + part[1:] if part else b"\\" + next(parts)
    return plain


def without_notes(body: bytes) -> bytes:
    """Leave out what only a worker understands."""
    kept, at = b"", 0
    while at < len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4])
        if body[at + 4 : at + 5] not in b"~=?":
            kept += body[at:end]
        at = end
    return kept


class Sheet:
    """Makes table `t` anew, as often as a test likes."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self.source: Database = changes.source

    def fill(self, kind: str, values: Sequence[str | None]) -> Rows:
        """Hold these values of one type in column `c`, behind a key that counts from 0."""
        inserted = sql.SQL(", ").join(
            sql.SQL("({}, {}::{})").format(number, sql.Literal(value), sql.SQL(kind))
            for number, value in enumerate(values)
        )
        self.source.execute(
            sql.SQL(
                "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, c {});"
                " INSERT INTO t VALUES {}"
            ).format(sql.SQL(kind), inserted)
        )
        found = self.source.rows(_COLUMNS)
        columns = [(name, oid, typmod, name == "id") for name, oid, typmod, *_ in found]
        types = {oid: (base, enum, string) for _, oid, _, base, enum, string in found if oid > 9999}
        is_binary = _core.has_binary_form([column[1] for column in columns])
        return Rows(
            int(self.source.value("SELECT 't'::regclass::oid::bigint")),
            columns,
            types,
            self._copied("text"),
            self._copied("binary") if is_binary else None,
            bodies(self.changes.envelopes(target_body_bytes=4096, max_body_bytes=65536)),
        )

    def select(self, query: sql.Composable) -> list[tuple[Any, ...]]:
        """Ask the server, in the time zone in which constants without one are meant."""
        with self.source.connect() as conn:
            conn.execute("SET TimeZone = 'UTC'")
            return conn.execute(sql.Composed([query])).fetchall()

    def _copied(self, form: str) -> bytes:
        query = sql.SQL("COPY t TO STDOUT (FORMAT {})").format(sql.Identifier(form))
        with self.source.connect() as conn:
            conn.execute("SET datestyle = ISO")
            conn.execute("SET timezone = UTC")
            conn.execute("SET extra_float_digits = 3")
            with conn.cursor().copy(query) as copy:
                return b"".join(copy)


@pytest.fixture
def sheet(changes: Changes) -> Sheet:
    """Give a table that can be filled again and again."""
    return Sheet(changes)
