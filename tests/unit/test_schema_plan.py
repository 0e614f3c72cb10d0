"""What pg_dump wrote is cut and compared without mistaking one thing for another."""

from __future__ import annotations

import pytest

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.schema.archive import Entry, entries
from pgflo.schema.needs import patterns
from pgflo.schema.plan import Stage, make_plan

HEADER = """--
-- TOC entry {number} (class {of_class} OID {oid})
{after}-- Name: {name}; Type: {kind}; Schema: {schema}; Owner: -
-- Data Pos: 0
--

"""
END = """
-- Completed on 2026-11-25 15:00:54 UTC

--
-- PostgreSQL database dump complete
--

\\unrestrict abc
"""


def header(number: int, name: str, kind: str, *, after: str = "", oid: int = 0) -> str:
    """Write what stands in front of an entry's text."""
    dependencies = f"-- Dependencies: {after}\n" if after else ""
    return HEADER.format(
        number=number,
        of_class=1259 if oid else 0,
        oid=oid,
        after=dependencies,
        name=name,
        kind=kind,
        schema="public",
    )


def entry(
    number: int, kind: str, name: str, text: str, *, after: tuple[int, ...] = (), schema: str = "s"
) -> Entry:
    """Give an entry of an archive."""
    return Entry(number, 0, 0, kind, schema, name, after, text)


def test_texts_are_cut_at_the_headers_of_listed_entries_alone() -> None:
    # GIVEN a function whose body looks like an archive, between settings for what follows
    body = f"CREATE FUNCTION f() AS $$\n{header(9, 'x', 'TABLE')}DROP;{END}$$;"
    script = (
        "SET check = off;\n\n"
        + header(1, "f()", "FUNCTION", oid=7)
        + f"{body}\n\n\nSET default_tablespace = '';\n\nSET default_table_access_method = heap;\n\n"
        + header(2, "a; Type: b; Schema: c; Owner: d", "TABLE", after="1 1 30", oid=8)
        + "CREATE TABLE t ();\n\n"
        + END
    )
    listing = ";\n; Archive\n;\n1; 1259 7 FUNCTION public f() me\n2; 1259 8 TABLE public t me\n"
    # WHEN it is read
    found = entries(listing, script)
    # THEN the body is whole, and names and dependencies are those of the header
    assert [(one.kind, one.oid, one.after) for one in found.values()] == [
        ("FUNCTION", 7, ()),
        ("TABLE", 8, (1, 30)),
    ]
    assert found[1].text == body
    assert found[2].text == "CREATE TABLE t ();"
    assert found[2].name == "a; Type: b; Schema: c; Owner: d"


def test_a_text_that_imitates_a_listed_header_is_refused() -> None:
    twice = header(1, "f()", "FUNCTION", oid=7) + "AS $$\n" + header(1, "f()", "FUNCTION", oid=7)
    with pytest.raises(PgfloError, match=r"pg_dump's header of FUNCTION public f\(\)") as refused:
        entries("1; 1259 7 FUNCTION public f() me\n", twice + "$$;\n" + END)
    assert refused.value.kind is errors.SCHEMA_UNREADABLE


def test_patterns_match_names_as_they_are_many_in_one() -> None:
    names = [("s", "a"), ("s", 'B"|.*'), ("S.x", "y")]
    assert patterns(names) == ('"s".("a"|"B""|.*")', '"S.x".("y")')
    many = patterns(("s", f"t{number}") for number in range(450))
    assert [pattern.count("|") + 1 for pattern in many] == [200, 200, 50]


def test_names_of_not_null_constraints_and_comments_make_no_difference() -> None:
    ours = entry(1, "TABLE", "t", 'CREATE TABLE t (\n a int CONSTRAINT "x y" NOT NULL,\n b int\n);')
    theirs = entry(5, "TABLE", "t", "CREATE TABLE t (\n a int NOT NULL,\n b int\n);")
    comment = entry(2, "COMMENT", "TABLE t", "COMMENT ON TABLE t IS 'ours'", after=(1,))
    assert make_plan([ours, comment], [theirs], ()) == []


def test_code_is_not_told_and_long_lists_of_differences_are_cut() -> None:
    ours = [entry(number, "FUNCTION", f"f{number}()", "secret 1") for number in range(1, 31)]
    theirs = [entry(one.id, one.kind, one.name, "secret 2") for one in ours]
    with pytest.raises(PgfloError, match="and 10 more") as refused:
        make_plan(ours, theirs, ())
    assert "secret" not in refused.value.detail
    assert refused.value.detail.count("is another one") == 20


def test_keys_come_before_what_needs_them_and_lock_their_tables() -> None:
    wanted = [
        entry(1, "TABLE", "a", "CREATE TABLE a"),
        entry(2, "TABLE", "b", "CREATE TABLE b"),
        entry(3, "CONSTRAINT", "a a_pkey", "ALTER TABLE a ADD PRIMARY KEY", after=(1,)),
        entry(4, "INDEX", "b_i", "CREATE INDEX b_i", after=(2,)),
        entry(5, "INDEX", "b_u", "CREATE UNIQUE INDEX b_u", after=(2,)),
        entry(6, "INDEX ATTACH", "x", "ALTER INDEX b_u ATTACH", after=(5, 3)),
        entry(7, "FK CONSTRAINT", "b b_fkey", "ALTER TABLE b ADD FOREIGN KEY", after=(3, 2)),
        entry(8, "COMMENT", "INDEX b_i", "COMMENT ON INDEX b_i", after=(4,)),
    ]
    parts = {part.number: part for part in make_plan(wanted, wanted[:1], ())}
    assert {number: part.stage for number, part in parts.items()} == {
        2: Stage.BEFORE_ROWS,
        3: Stage.KEYS,
        4: Stage.AFTER_KEYS,
        5: Stage.KEYS,
        6: Stage.KEYS,
        7: Stage.FOREIGN_KEYS,
        8: Stage.AFTER_KEYS,
    }
    assert parts[7].tables == (1, 2)
    assert parts[6].tables == (1, 2)
    assert parts[7].after == (3, 2)
    assert not parts[4].exclusive
    assert parts[7].exclusive
