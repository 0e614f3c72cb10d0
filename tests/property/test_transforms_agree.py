"""Masked and rewritten texts are what SQL makes of them, copied in text, in binary and streamed.

The server is the judge: the same mask and the same expressions in SQL. Expressions are of the part
that both languages share; what Rust's regex has beside it is told by its own tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import note
from hypothesis import strategies as st
from psycopg import sql
from tests.fix_property import within_budget
from tests.fix_rows import T
from tests.property.filter_cases import LETTERS, SETUP

from pgflo.rules.spec import OPERATIONS, Rule

if TYPE_CHECKING:
    from tests.fix_rows import Sheet

LONG_EXAMPLES = 2000
KINDS = ("text", "varchar(9)", "char(9)", "word", "name")
EXPRESSIONS = {
    ("a", "b"): ("a", "b"),
    ("[ab]+", "<$0>"): ("[ab]+", r"<\&>"),
    ("^([aZ])", "$1$1"): ("^([aZ])", r"\1\1"),
    ("(a|ä)(b|漢)", "${2}_$1"): ("(a|ä)(b|漢)", r"\2_\1"),
    ("[^ab]$", ""): ("[^ab]$", ""),
    ("\t|\n", "\\"): ("\t|\n", r"\\"),
    (r"\\", r"\n"): (r"\\", r"\\n"),
    ("😀", "$$"): ("😀", "$"),
    ("^$", "leer"): ("^$", "leer"),
}
"""Pattern and replacement, as rules have them and as SQL does."""


@dataclass(frozen=True)
class Case:
    """A type, its values and what is done to them, one after the other."""

    kind: str
    values: tuple[str | None, ...]
    steps: tuple[str | tuple[str, str], ...]
    """A mask's character, or pattern and replacement."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case."""
    texts = st.none() | st.text(st.sampled_from(LETTERS), max_size=8)
    step: st.SearchStrategy[str | tuple[str, str]] = st.sampled_from(["*", "█", "\\", *EXPRESSIONS])
    return Case(
        draw(st.sampled_from(KINDS)),
        tuple(draw(st.lists(texts, min_size=1, max_size=8))),
        tuple(draw(st.lists(step, min_size=1, max_size=3))),
    )


def rule(step: str | tuple[str, str]) -> Rule:
    if isinstance(step, str):
        return Rule("mask", T, "c", OPERATIONS, "mask", mask_char=step)
    return Rule("regex", T, "c", OPERATIONS, "regex", pattern=step[0], replace=step[1])


def in_sql(kind: str, steps: tuple[str | tuple[str, str], ...]) -> sql.Composable:
    """Give the same as an expression."""
    text: sql.Composable = sql.SQL("c::text")
    for step in steps:
        if kind == "char(9)":
            # What a rule leaves is a value of the column again: its padding means nothing.
            text = sql.SQL("rtrim({}, ' ')").format(text)
        if isinstance(step, str):
            text = sql.SQL(
                "CASE WHEN length({0}) < 3 THEN repeat({1}, length({0})) ELSE left({0}, 1)"
                " || repeat({1}, length({0}) - 2) || right({0}, 1) END"
            ).format(text, sql.Literal(step))
        else:
            pattern, replacement = map(sql.Literal, EXPRESSIONS[step])
            text = sql.SQL("regexp_replace({}, {}, {}, 'g')").format(text, pattern, replacement)
    return text


@within_budget(case=cases(), long_examples=LONG_EXAMPLES)
def test_texts_are_what_sql_makes_of_them_however_they_travel(sheet: Sheet, case: Case) -> None:
    note(repr(case))
    if not sheet.source.value("SELECT to_regtype('mood') IS NOT NULL"):
        sheet.source.execute(*SETUP)
    rows = sheet.fill(case.kind, case.values)
    query = sql.SQL("SELECT id::text, {} FROM t ORDER BY id").format(in_sql(case.kind, case.steps))
    expected = [
        tuple(None if cell is None else cell.encode() for cell in row)
        for row in sheet.select(query)
    ]
    for form, found in rows.through([rule(step) for step in case.steps]).items():
        assert found == expected, form
