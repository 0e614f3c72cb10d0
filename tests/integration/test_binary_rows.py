"""Rows of COPY's binary format turned into text, with the server's own text as judge."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, LiteralString

import pytest
from psycopg import sql

from pgflo import _core

if TYPE_CHECKING:
    from tests.fix_postgres import Database

ROWS = 4000

COLUMNS: dict[str, LiteralString] = {
    "bool": "random() < 0.5",
    "int2": "(random() * 65535 - 32768)::int2",
    "int4": "(random() * 4294967295 - 2147483648)::int4",
    "int8": "(random() * 1.8e19 - 9e18)::numeric::int8",
    "oid": "(random() * 4294967295)::int8::oid",
    "float4": "((random() - 0.5) * 10 ^ (random() * 60 - 30))::float4",
    "float8": "(random() - 0.5) * 10 ^ (random() * 600 - 300)",
    "numeric": "round(((random() - 0.5)::numeric * 10::numeric ^ (random() * 40 - 12)::int),"
    " (random() * 30)::int)",
    "numeric(30, 10)": "(random() - 0.5)::numeric * 10 ^ (i % 19)",
    "text": "translate(md5(i::text), '0123', E'\\b\\t\\n\\\\') || chr(1 + i % 53248)"
    " || E'\\r\\f\\v'",
    "varchar(9)": "repeat('ä', i % 9)",
    "char(9)": "repeat('b', i % 9)",
    "name": "'n' || i",
    "bytea": "decode(repeat(md5(i::text), i % 3), 'hex')",
    "json": '\'{"a": [1, null, "x\\\\"]}\'',
    "jsonb": "jsonb_build_object('a', i, E'b\\n', random())",
    "uuid": "gen_random_uuid()",
    "date": "date '2000-01-01' + (random() ^ 5 * 4e6 - random() ^ 5 * 2.4e6)::int",
    "time": "'00:00'::time + random() * interval '1 day'",
    "timetz": "('12:00'::time + random() * interval '1 hour')::text::time at time zone"
    " make_interval(secs => (i % 100000) - 50000)",
    "timestamp": "timestamp '2000-01-01' + (random() ^ 5 - random() ^ 5) * interval '6000 years'",
    "timestamptz": "timestamptz '2000-01-01' + (random() ^ 9 - random() ^ 9)"
    " * interval '6000 years'",
    "interval": "(random() - 0.5) * interval '40 months' + (random() - 0.5) * interval '9 days'"
    " + ((i % 3) - 1) * interval '1 hour 0.25 seconds'",
}
"""By type, a random value of row `i`."""

EDGES = {
    "int8": ["-9223372036854775808", "9223372036854775807", "0"],
    "float4": ["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38", "1e6", "999999"],
    "float8": ["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1e15", "123456789012345", "1e-5"],
    "numeric": ["NaN", "Infinity", "-Infinity", "0", "0.000", "-0.0001", "1e131071", "1e-16383"],
    "numeric(30, 10)": ["10000", "9999.9999", "0.00001", "-12345678901234567890"],
    "text": ["", "\\N", "\\."],
    "bytea": ["", "\\x00ff5c"],
    "date": ["infinity", "-infinity", "4713-11-24 BC", "5874897-12-31", "0001-01-01 BC"],
    "time": ["24:00", "00:00:00.000001"],
    "timetz": ["24:00+15:59:59", "00:00-15:59:59", "12:34:56.7+05:30", "12:00+00"],
    "timestamp": [
        "infinity",
        "-infinity",
        "4713-11-24 00:00:00 BC",
        "294276-12-31 23:59:59.999999",
    ],
    "timestamptz": ["infinity", "-infinity", "4713-11-24 00:00:00+00 BC", "0001-12-31 23:59+00 BC"],
    "interval": [
        "0",
        "1 mon -1 day 2:00",
        "-1 year 2 mons",
        "-0.000001s",
        "1 day -0:00:01",
        "1y 1mon",
    ],
}
"""Values at which a type's text has a form of its own."""


@pytest.fixture
def every_type(source: Database) -> Database:
    """Hold a table `t` with random values, edges and NULLs of every type that is known."""
    names = {kind: sql.Identifier(f"c{number}") for number, kind in enumerate(COLUMNS)}
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(name, sql.SQL(kind)) for kind, name in names.items()
    )
    values = sql.SQL(", ").join(map(sql.SQL, COLUMNS.values()))
    source.execute(
        sql.SQL("CREATE TABLE t ({})").format(columns),
        "SELECT setseed(0.5)",
        sql.SQL("INSERT INTO t SELECT {} FROM generate_series(1, {}) i").format(values, ROWS),
    )
    for kind, edges in EDGES.items():
        into = sql.SQL("INSERT INTO t ({}) VALUES ({})")
        source.execute(*(into.format(names[kind], sql.Literal(edge)) for edge in edges))
    return source


def copied(database: Database, form: str) -> bytes:
    """Copy `t` out in one of the formats, under the settings that are pinned."""
    with database.connect() as conn:
        for setting in ("datestyle = ISO", "intervalstyle = postgres", "timezone = UTC"):
            conn.execute(f"SET {setting}")
        conn.execute("SET extra_float_digits = 3")
        query = sql.SQL("COPY t TO STDOUT (FORMAT {})").format(sql.Identifier(form))
        with conn.cursor().copy(query) as copy:
            return b"".join(copy)


def oids(database: Database) -> list[int]:
    return [
        oid
        for (oid,) in database.rows(
            "SELECT atttypid::int8 FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0"
            " ORDER BY attnum"
        )
    ]


def same(ours: bytes, theirs: bytes, kind: str) -> bool:
    if ours == theirs:
        return True
    if kind == "float4":
        return struct.pack("f", float(ours)) == struct.pack("f", float(theirs))
    return kind == "float8" and float(ours) == float(theirs)


def test_every_known_type_has_the_text_that_the_server_writes(every_type: Database) -> None:
    converter = _core.BinaryToText(oids(every_type))
    binary = copied(every_type, "binary")
    cuts = random.Random(7)
    ours = []
    at = 0
    while at < len(binary):
        behind = at + cuts.choice([1, 5, 19, 300, 70_000])
        ours.append(converter.feed(binary[at:behind]))
        at = behind
    converter.finish()
    found, expected = (
        [row.split(b"\t") for row in text.split(b"\n")]
        for text in (b"".join(ours), copied(every_type, "text"))
    )
    assert len(found) == len(expected) > ROWS
    wrong = {
        kind: (ours, theirs)
        for our_row, their_row in zip(found, expected, strict=True)
        for kind, ours, theirs in zip(COLUMNS, our_row, their_row, strict=False)
        if not same(ours, theirs, kind)
    }
    assert not wrong


def test_a_range_that_ends_early_or_goes_on_is_refused(every_type: Database) -> None:
    binary = copied(every_type, "binary")
    short = _core.BinaryToText(oids(every_type))
    short.feed(binary[:-1])
    with pytest.raises(_core.DecodeError):
        short.finish()
    long = _core.BinaryToText(oids(every_type))
    with pytest.raises(_core.DecodeError):
        long.feed(binary + b"x")
    other = _core.BinaryToText(oids(every_type)[1:])
    with pytest.raises(_core.DecodeError):
        other.feed(binary)
