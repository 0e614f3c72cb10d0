"""A filter passes the rows that PostgreSQL selects, of every type, by every operator.

The server is the judge: WHERE over the same rows. They come to the filter twice, as COPY gives them
and as the change stream does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import note
from hypothesis import strategies as st
from psycopg import sql
from tests.fix_changes import bodies
from tests.fix_property import within_budget

from pgflo import _core
from pgflo.rules.spec import OPERATIONS, GroupTable, Rule, Spec

if TYPE_CHECKING:
    from tests.fix_changes import Changes
    from tests.fix_postgres import Database

LONG_EXAMPLES = 4000
OPERATORS = {"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
LETTERS = 'ab Zä漢😀\t\\\n"N~%'

TEXTS = st.text(st.sampled_from(LETTERS), max_size=6)
SMALL = st.integers(-3, 3)
DATES = st.one_of(
    st.dates().map(str),
    st.sampled_from(
        ["infinity", "-infinity", "0044-03-15 BC", "0001-12-31 BC", "12024-02-29", "1900-02-28"]
    ),
)
TIMES = st.one_of(
    st.times().map(lambda time: time.replace(tzinfo=None).isoformat()),
    st.sampled_from(["24:00:00", "00:00:00", "12:30"]),
)
MOMENTS = st.one_of(
    st.datetimes().map(lambda moment: moment.isoformat(" ")),
    st.sampled_from(["infinity", "-infinity", "0044-03-15 12:00:00 BC", "2024-01-01"]),
)


def with_zone(moment: str) -> st.SearchStrategy[str]:
    """Spell a moment with an offset, where it can have one."""
    if "infinity" in moment or "BC" in moment or " " not in moment or moment < "0002":
        return st.just(moment)
    zones = st.sampled_from(["", "Z", "+02", "-03:30", "+0545", "+00"])
    letters = st.sampled_from([" ", "T"])
    return st.tuples(letters, zones).map(lambda drawn: moment.replace(" ", drawn[0]) + drawn[1])


NUMBERS = st.one_of(
    SMALL.map(str),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-10, max_value=10, places=2).map(
        "{:f}".format
    ),
    st.sampled_from(["NaN", "1e3", "1000.0", "0.00", "-0", "123456789012345678901234567890.1"]),
)

TYPES: dict[str, st.SearchStrategy[str]] = {
    "smallint": SMALL.map(str),
    "integer": st.one_of(SMALL, st.sampled_from([2**31 - 1, -(2**31)])).map(str),
    "bigint": st.one_of(SMALL, st.sampled_from([2**63 - 1, -(2**63)])).map(str),
    "oid": st.sampled_from(["0", "1", "4294967295"]),
    "adult": SMALL.map(str),
    "numeric": st.one_of(NUMBERS, st.sampled_from(["Infinity", "-Infinity"])),
    "numeric(40,3)": NUMBERS,
    "real": st.one_of(
        st.floats(width=32).map(repr), st.sampled_from(["0.1", "-0", "0", "NaN", "-Infinity"])
    ),
    "double precision": st.one_of(st.floats().map(repr), st.sampled_from(["0.1", "-0", "1e300"])),
    "text": TEXTS,
    "varchar(9)": TEXTS,
    "char(9)": TEXTS,
    "boolean": st.sampled_from(["true", "false", "yes", "0"]),
    "date": DATES,
    "time": TIMES,
    "timestamp": MOMENTS,
    "timestamptz": MOMENTS.flatmap(with_zone),
    "uuid": st.uuids().map(str) | st.just("00000000-0000-0000-0000-000000000001"),
    "mood": st.sampled_from(["sad", "ok", "happy", "Zen"]),
}
IS_TEXT = {"text", "varchar(9)", "char(9)", "mood"}

SETUP = (
    "CREATE DOMAIN adult AS int",
    "CREATE TYPE mood AS ENUM ('happy', 'Zen', 'ok', 'sad')",
)


@dataclass(frozen=True)
class Case:
    """A column type, its values, and what is asked of them."""

    type: str
    values: tuple[str | None, ...]
    operator: str
    constant: str | None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case; often the constant is one of the values."""
    name = draw(st.sampled_from(sorted(TYPES)))
    values = TYPES[name]
    operators = [*OPERATORS, *(["contains"] if name in IS_TEXT else [])]
    operator = draw(st.sampled_from(operators))
    constants: st.SearchStrategy[str | None] = values
    if operator in ("eq", "ne"):
        constants |= st.none()
    constant = draw(constants)
    drawn = st.lists(st.one_of(values, st.none(), st.just(constant)), min_size=1, max_size=12)
    return Case(name, tuple(draw(drawn)), operator, constant)


def condition(case: Case) -> sql.Composable:
    """Give the equivalent WHERE."""
    column: sql.Composable = sql.SQL("c")
    if case.constant is None:
        return sql.SQL("c IS NULL" if case.operator == "eq" else "c IS NOT NULL")
    constant: sql.Composable = sql.Literal(case.constant)
    if case.operator == "contains":
        return sql.SQL("strpos(c::text, {}) > 0").format(constant)
    if case.type == "mood":
        column = sql.SQL('c::text COLLATE "C"')
    elif case.type in IS_TEXT:
        column = sql.SQL('c COLLATE "C"')
    if case.type not in ("mood", "text"):
        constant = sql.SQL("{}::{}").format(constant, sql.SQL(case.type.split("(")[0]))
    if case.type == "char(9)":
        constant = sql.SQL("{}::bpchar").format(sql.Literal(case.constant))
    return sql.SQL("{} {} {}").format(column, sql.SQL(OPERATORS[case.operator]), constant)


def make(source: Database, case: Case) -> int:
    """Make the table anew; give its OID."""
    rows = sql.SQL(", ").join(
        sql.SQL("({}, {}::{})").format(number, sql.Literal(value), sql.SQL(case.type))
        for number, value in enumerate(case.values)
    )
    source.execute(
        sql.SQL(
            "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, c {});"
            " INSERT INTO t VALUES {}"
        ).format(sql.SQL(case.type), rows)
    )
    return int(source.value("SELECT 't'::regclass::oid::bigint"))


def compiled(source: Database, oid: int, case: Case) -> tuple[_core.RuleSet, _core.Program]:
    ((type_oid, base_oid, is_enum),) = source.rows(
        "SELECT a.atttypid::bigint, coalesce(nullif(t.typbasetype, 0), t.oid)::bigint,"
        " t.typtype = 'e' FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
        " WHERE attrelid = %s AND attname = 'c'",
        [oid],
    )
    rule = Rule(
        "rule", ("public", "t"), "c", OPERATIONS, "filter", case.operator, value=case.constant
    )
    types = {type_oid: (base_oid, is_enum, False)} if type_oid > 10_000 else {}
    spec = Spec((rule,), (), (GroupTable(oid, "public", "t", None),), types)
    columns = [("id", 23, -1, True), ("c", type_oid, -1, False)]
    rules = spec.compiled()
    return rules, rules.compile(oid, ("public", "t"), "d", columns)


def copied(source: Database, program: _core.Program) -> set[int]:
    """Give the rows that pass as they are copied."""
    rewriter = _core.CopyRewriter(program, 1)
    passed = b""
    with source.connect() as conn, conn.cursor().copy("COPY t TO STDOUT") as copy:
        for part in copy:
            ((data, _),) = rewriter.feed(part)
            passed += data
    rewriter.finish()
    return {int(line.split(b"\t")[0]) for line in passed.splitlines()}


def streamed(changes: Changes, rules: _core.RuleSet) -> set[int]:
    """Give the rows that pass as changes."""
    rewriter = _core.Rewriter(rules)
    found: set[int] = set()
    after = (0, 0)
    for body in bodies(changes.envelopes(target_body_bytes=4096, max_body_bytes=65536)):
        data, passed, _ = rewriter.rewrite(body.data, body.prev, after)
        after = body.end
        messages = _core.decode_messages(without_notes(bytes(body.data if data is None else data)))
        cells = [message[2][0][1] for message in messages if message[0] == "I"]
        assert len(cells) == passed
        found |= {int(cell) for cell in cells if cell is not None}
    return found


def without_notes(body: bytes) -> bytes:
    """Leave out what only a worker understands."""
    kept, at = b"", 0
    while at < len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4])
        if body[at + 4 : at + 5] not in b"~=?":
            kept += body[at:end]
        at = end
    return kept


@within_budget(case=cases(), long_examples=LONG_EXAMPLES)
def test_a_filter_passes_the_rows_that_where_selects(changes: Changes, case: Case) -> None:
    note(repr(case))
    source = changes.source
    if not source.value("SELECT to_regtype('mood') IS NOT NULL"):
        source.execute(*SETUP)
    oid = make(source, case)
    rules, program = compiled(source, oid, case)
    query = sql.SQL("SELECT id FROM t WHERE {}").format(condition(case))
    with source.connect() as conn:
        conn.execute("SET TimeZone = 'UTC'")
        expected = {row[0] for row in conn.execute(query)}
    found = copied(source, program), streamed(changes, rules)
    assert found == (expected, expected)
