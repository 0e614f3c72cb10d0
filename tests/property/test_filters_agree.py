"""A filter passes the rows that PostgreSQL selects, of every type, by every operator.

The server is the judge: WHERE over the same rows. They come to the filter as COPY gives them in
text and in binary, and as the change stream does. Types that do not travel in binary (domains,
enums) come in two ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import note
from hypothesis import strategies as st
from psycopg import sql
from tests.fix_property import within_budget
from tests.fix_rows import T
from tests.property.filter_cases import DRAWN, EDGES, SETUP, condition, questions

from pgflo.rules.spec import OPERATIONS, Rule

if TYPE_CHECKING:
    from tests.fix_rows import Row, Sheet
    from tests.property.filter_cases import Question

LONG_EXAMPLES = 4000
WITHOUT_BINARY = {"adult", "senior", "word", "mood", "temper"}


@st.composite
def columns(draw: st.DrawFn) -> tuple[str, tuple[str | None, ...], tuple[str, ...]]:
    """Draw a type, values of a column, and constants, which often are among the values."""
    kind = draw(st.sampled_from(sorted(DRAWN)))
    constants = draw(st.lists(DRAWN[kind], min_size=1, max_size=3))
    values = st.one_of(DRAWN[kind], st.none(), st.sampled_from(constants))
    drawn = draw(st.lists(values, min_size=1, max_size=12))
    return kind, tuple(drawn), tuple(constants)


def filtering(asked: Question) -> Rule:
    return Rule("rule", T, "c", OPERATIONS, "filter", asked.operator, value=asked.constant)


def judge(sheet: Sheet, kind: str, asked: list[Question]) -> list[set[int]]:
    """Let the server say which rows each question is true of."""
    columns = sql.SQL(", ").join(
        sql.SQL("coalesce(array_agg(id) FILTER (WHERE {}), '{{}}')").format(condition(kind, each))
        for each in asked
    )
    ((*found,),) = sheet.select(sql.SQL("SELECT {} FROM t").format(columns))
    return [set(ids) for ids in found]


def ids(rows: list[Row]) -> set[int]:
    found = {int(row[0]) for row in rows if row[0] is not None}
    assert len(found) == len(rows)
    return found


def check(
    sheet: Sheet, kind: str, values: tuple[str | None, ...], constants: tuple[str, ...]
) -> None:
    if not sheet.source.value("SELECT to_regtype('mood') IS NOT NULL"):
        sheet.source.execute(*SETUP)
    rows = sheet.fill(kind, values)
    assert (rows.binary is None) == (kind in WITHOUT_BINARY)
    asked = questions(kind, constants)
    for each, expected in zip(asked, judge(sheet, kind, asked), strict=True):
        for form, passed in rows.through([filtering(each)]).items():
            assert ids(passed) == expected, (kind, each, form, values)


def test_edges_of_every_type_pass_every_operator_as_where_says(sheet: Sheet) -> None:
    assert EDGES.keys() == DRAWN.keys()
    for kind, edges in EDGES.items():
        check(sheet, kind, (*edges, None), edges)


@within_budget(column=columns(), long_examples=LONG_EXAMPLES)
def test_a_filter_passes_the_rows_that_where_selects(
    sheet: Sheet, column: tuple[str, tuple[str | None, ...], tuple[str, ...]]
) -> None:
    note(repr(column))
    check(sheet, *column)
