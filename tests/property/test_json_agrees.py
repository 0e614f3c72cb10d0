"""A row as a JSON line has the values that `to_jsonb` of the server gives it, whatever its types.

PostgreSQL is the judge: it prints the row, once as a change and once as a copied row.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import strategies as st
from psycopg import sql
from tests.fix_property import within_budget
from tests.oracle.wire import lengths_prefixed
from tests.property.own_types import CREATE_OWN_TYPES, OWN_TYPES, OWN_VALUES
from tests.property.type_values import BOUNDED, ODD_TYPES, UNKNOWN_TYPES, VALUES

from pgflo import _core
from pgflo.source import own_types
from pgflo.source.connection import PINNED_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fix_postgres import Database

INCARNATION = uuid.UUID(int=0x5F0C9A12 << 96)

Row = dict[str, str | list[Any] | None]


class Judge:
    """A table with a column of every type, twice: as itself and as an array."""

    def __init__(self, database: Database) -> None:
        self.database = database
        columns = [
            sql.SQL("{} {}, {} {}[]").format(
                sql.Identifier(name), sql.SQL(name), sql.Identifier(f"{name}[]"), sql.SQL(name)
            )
            for name in VALUES
        ]
        columns += [
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(made))
            for name, made in OWN_TYPES.items()
        ]
        database.execute(
            CREATE_OWN_TYPES,
            sql.SQL("CREATE TABLE odd (row int PRIMARY KEY, {})").format(
                sql.SQL(", ").join(columns)
            ),
            "CREATE PUBLICATION stream FOR ALL TABLES",
        )
        options = " ".join(f"-c {name}={value}" for name, value in PINNED_SETTINGS.items())
        self.session = psycopg.connect(database.dsn, options=options, autocommit=True)
        self.slot = f"json_{database.name}"[:63]
        self.session.execute(
            "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [self.slot]
        )
        self.oid, self.columns = self._describe()
        types = {
            made.oid: (made.kind, made.beneath, made.delimiter, made.attributes)
            for made in asyncio.run(self._types())
        }
        self.scribe = _core.JsonScribe("shop", INCARNATION.bytes, {}, types)

    def _describe(self) -> tuple[int, list[tuple[str, int]]]:
        found = self.session.execute(
            "SELECT attrelid::int8, attname, atttypid::int8 FROM pg_attribute"
            " WHERE attrelid = 'odd'::regclass AND attnum > 0 ORDER BY attnum"
        ).fetchall()
        return found[0][0], [(name, type_oid) for _, name, type_oid in found]

    async def _types(self) -> tuple[own_types.SourceType, ...]:
        async with await psycopg.AsyncConnection.connect(self.database.dsn) as conn:
            return (await own_types.describe(conn, [self.oid]))[self.oid]

    def insert(self, row: Row) -> None:
        """Put one row into the table, and nothing else."""
        names = ["row", *row]
        statement = sql.SQL("TRUNCATE odd; INSERT INTO odd ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(
                sql.SQL("{}::{}").format(_literal(value), sql.SQL(OWN_TYPES.get(name, name)))
                for name, value in [("int4", "1"), *row.items()]
            ),
        )
        with self.session.transaction():
            self.session.execute(statement)

    def expected(self) -> dict[str, Any]:
        """Give the row as the server prints it."""
        ((text,),) = self.session.execute("SELECT to_jsonb(odd)::text FROM odd").fetchall()
        return _read(text)

    def streamed(self) -> dict[str, Any]:
        """Give the line of the last change."""
        messages = self.session.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'stream')",
            [self.slot],
        ).fetchall()
        body = lengths_prefixed([bytes(data) for (data,) in messages])
        events = self.scribe.changes(body, (0, 0), (0, 0))
        return _read(events.data.splitlines()[-1].decode())

    def copied(self, piece_bytes: int) -> dict[str, Any]:
        """Give the line of the row as it is copied, in pieces."""
        with self.session.cursor().copy("COPY odd TO STDOUT (FORMAT text)") as copy:
            rows = b"".join(bytes(block) for block in copy)
        scribe = self.scribe.rows(
            self.oid, "public", "odd", self.columns, ["row"], snapshot_lsn=26, range_no=3
        )
        lines = b""
        for at in range(0, len(rows), piece_bytes):
            lines += scribe.feed(rows[at : at + piece_bytes]).data
        assert scribe.finish() == 1
        (line,) = lines.split(b"\n")[:-1]
        return _read(line.decode())


def _literal(value: str | list[Any] | None) -> sql.Composable:
    # An array goes through text[], so that the server quotes its elements.
    if isinstance(value, list):
        return sql.SQL("{}::text[]").format(sql.Literal(value))
    return sql.Literal(value)


def _read(text: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    return read


def rows() -> st.SearchStrategy[Row]:
    """Draw a value for some columns; the others are NULL."""
    columns: dict[str, st.SearchStrategy[Any]] = {
        name: st.sampled_from((*values, None)) for name, values in OWN_VALUES.items()
    }
    for name, values in VALUES.items():
        one = st.sampled_from((*values, None))
        drawn = one | DRAWN[name] if name in DRAWN else one
        columns[name] = drawn
        arrays = st.lists(drawn, max_size=3)
        if name in BOUNDED:
            columns[f"{name}[]"] = arrays | st.sampled_from(BOUNDED[name])
        else:
            columns[f"{name}[]"] = arrays | st.none()
    return st.fixed_dictionaries({}, optional=columns)


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
DRAWN: dict[str, st.SearchStrategy[str]] = {
    "text": WORDS,
    "jsonb": st.recursive(
        st.none() | st.booleans() | st.integers() | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=6,
    ).map(json.dumps),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False).map(str),
    "float8": st.floats().map(repr).map(lambda text: text.replace("inf", "Infinity")),
    "int8": st.integers(-(2**63), 2**63 - 1).map(str),
}


@pytest.fixture
def judge(source: Database) -> Iterator[Judge]:
    """Give a judge with a session of its own."""
    judge = Judge(source)
    yield judge
    judge.session.close()


def test_every_type_of_the_server_has_values_here(source: Database) -> None:
    assert source.rows(UNKNOWN_TYPES, [[*ODD_TYPES, *(name.strip('"') for name in VALUES)]]) == []


@within_budget(row=rows(), piece_bytes=st.sampled_from((1, 7, 1000)))
def test_lines_hold_the_values_that_the_server_prints(
    judge: Judge, row: Row, piece_bytes: int
) -> None:
    judge.insert(row)
    expected = judge.expected()
    streamed, copied = judge.streamed(), judge.copied(piece_bytes)
    assert streamed["new"] == expected
    assert copied["new"] == expected
    assert (streamed["op"], streamed["key"]) == ("insert", {"row": 1})
    assert (copied["op"], copied["key"], copied["snapshot"]) == ("insert", {"row": 1}, True)
    assert copied["id"] == "shop:5f0c9a12:s:public.odd:0/1A:3:1"
