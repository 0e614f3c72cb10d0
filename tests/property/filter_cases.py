"""What may be asked of a column: types that filters compare, their values, and the same in SQL.

Downstream: `test_filters_agree`, `test_transforms_agree`. `EDGES` are asked about with each other,
`DRAWN` at random.
Invariant: every type is in both, and every value can be read by its type.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from psycopg import sql

ORDERS = {"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
LETTERS = 'ab Zä漢😀\t\\\n"N~%'

SETUP = (
    "CREATE DOMAIN adult AS int",
    "CREATE DOMAIN senior AS adult",
    "CREATE DOMAIN word AS varchar(9)",
    "CREATE TYPE mood AS ENUM ('happy', 'Zen', 'ok', 'sad')",
    "CREATE DOMAIN temper AS mood",
)

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
MOODS = st.sampled_from(["sad", "ok", "happy", "Zen"])

DRAWN: dict[str, st.SearchStrategy[str]] = {
    "smallint": SMALL.map(str),
    "integer": st.one_of(SMALL, st.sampled_from([2**31 - 1, -(2**31)])).map(str),
    "bigint": st.one_of(SMALL, st.sampled_from([2**63 - 1, -(2**63)])).map(str),
    "oid": st.sampled_from(["0", "1", "4294967295"]),
    "adult": SMALL.map(str),
    "senior": SMALL.map(str),
    "numeric": st.one_of(NUMBERS, st.sampled_from(["Infinity", "-Infinity"])),
    "numeric(40,3)": NUMBERS,
    "real": st.one_of(
        st.floats(width=32).map(repr), st.sampled_from(["0.1", "-0", "0", "NaN", "-Infinity"])
    ),
    "double precision": st.one_of(st.floats().map(repr), st.sampled_from(["0.1", "-0", "1e300"])),
    "text": TEXTS,
    "varchar(9)": TEXTS,
    "char(9)": TEXTS,
    "word": TEXTS,
    "boolean": st.sampled_from(["true", "false", "yes", "0"]),
    "date": DATES,
    "time": TIMES,
    "timestamp": MOMENTS,
    "timestamptz": MOMENTS.flatmap(with_zone),
    "uuid": st.uuids().map(str) | st.just("00000000-0000-0000-0000-000000000001"),
    "mood": MOODS,
    "temper": MOODS,
}

WORDS = ("", " ", "a", "a ", "ab", "ä", "Z", "漢", "\t\\", "\\N", "%")
NUMERICS = (
    "NaN",
    "0",
    "-0.00",
    "1",
    "1.000",
    "1e3",
    "-9.99",
    "10",
    "0.0005",
    "123456789012345678.5",
)
FLOATS = ("NaN", "Infinity", "-Infinity", "0", "-0", "0.1", "1e-30", "16777217", "-1.5")
INSTANTS = (
    *("infinity", "-infinity", "0044-03-15 12:00:00 BC", "0001-01-01 00:00:00"),
    *("1970-01-01", "1999-12-31 23:59:59.999999", "2000-02-29 00:00", "2024-01-01 24:00:00"),
)

EDGES: dict[str, tuple[str, ...]] = {
    "smallint": ("-32768", "-1", "0", "1", "32767"),
    "integer": ("-2147483648", "-1", "0", "1", "2147483647"),
    "bigint": ("-9223372036854775808", "-1", "0", "9223372036854775806", "9223372036854775807"),
    "oid": ("0", "1", "2147483648", "4294967295"),
    "adult": ("-2147483648", "0", "18"),
    "senior": ("-1", "0", "60"),
    "numeric": (*NUMERICS, "Infinity", "-Infinity"),
    "numeric(40,3)": NUMERICS,
    "real": (*FLOATS, "3.4e38", "1e-45"),
    "double precision": (*FLOATS, "1.7e308", "5e-324"),
    "text": WORDS,
    "varchar(9)": WORDS,
    "char(9)": WORDS,
    "word": WORDS,
    "boolean": ("true", "false"),
    "date": (
        *("infinity", "-infinity", "0044-03-15 BC", "0001-12-31 BC", "0001-01-01"),
        *("1900-02-28", "2000-02-29", "12024-02-29"),
    ),
    "time": ("00:00", "00:00:00.000001", "12:30:00", "23:59:59.999999", "24:00:00"),
    "timestamp": INSTANTS,
    "timestamptz": (
        *INSTANTS,
        *("2000-02-29T02:00+02", "1999-12-31 19:30:00.000001-0430", "2000-02-29 00:00:00Z"),
    ),
    "uuid": (
        "00000000-0000-0000-0000-000000000000",
        "7fffffff-ffff-ffff-ffff-ffffffffffff",
        "80000000-0000-0000-0000-000000000000",
        "{FFFFFFFF-ffff-ffff-ffff-ffffffffffff}",
    ),
    "mood": ("sad", "ok", "happy", "Zen"),
    "temper": ("sad", "ok", "happy", "Zen"),
}

IS_TEXT = {"text", "varchar(9)", "char(9)", "word", "mood", "temper"}
IS_ENUM = {"mood", "temper"}


@dataclass(frozen=True)
class Question:
    """What is asked of a column."""

    operator: str
    constant: str | None


def questions(kind: str, constants: tuple[str, ...]) -> list[Question]:
    """Ask everything that may be asked with these constants."""
    operators = [*ORDERS, *(["contains"] if kind in IS_TEXT else [])]
    return [
        *(Question(operator, constant) for operator in operators for constant in constants),
        *(Question(operator, None) for operator in ("eq", "ne")),
    ]


def condition(kind: str, asked: Question) -> sql.Composable:
    """Give the equivalent WHERE for column `c`. Texts and enums are compared by code point."""
    if asked.constant is None:
        return sql.SQL("c IS NULL" if asked.operator == "eq" else "c IS NOT NULL")
    constant: sql.Composable = sql.Literal(asked.constant)
    if asked.operator == "contains":
        return sql.SQL("strpos(c::text, {}) > 0").format(constant)
    column: sql.Composable = sql.SQL("c")
    if kind in IS_ENUM:
        column = sql.SQL('c::text COLLATE "C"')
    elif kind in IS_TEXT:
        column = sql.SQL('c COLLATE "C"')
    if kind == "char(9)":
        constant = sql.SQL("{}::bpchar").format(constant)
    elif kind not in IS_TEXT:
        constant = sql.SQL("{}::{}").format(constant, sql.SQL(kind.partition("(")[0]))
    return sql.SQL("{} {} {}").format(column, sql.SQL(ORDERS[asked.operator]), constant)
