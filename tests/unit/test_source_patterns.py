"""Names in table lists mean what they mean in SQL."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgflo.errors import PgfloError
from pgflo.source.patterns import TablePattern, parse, quote


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("users", [("public", "users")]),
        ("Users", [("public", "users")]),
        ('"Users"', [("public", "Users")]),
        ("a,b , other.c", [("public", "a"), ("public", "b"), ("other", "c")]),
        ('"Odd.Name"', [("public", "Odd.Name")]),
        ('"O""dd"."Na,me"', [('O"dd', "Na,me")]),
        ("sales.*", [("sales", None)]),
        ("*", [("public", None)]),
        ("größe", [("public", "größe")]),
    ],
)
def test_a_list_is_read_as_in_sql(text: str, expected: list[tuple[str, str | None]]) -> None:
    assert [(p.schema, p.name) for p in parse([text], "public")] == expected


@pytest.mark.parametrize("text", ["", "a,", ",a", '"a', 'a"b"', "a.b.c", "*.a", "a b", 'a."', '""'])
def test_an_unreadable_list_is_refused(text: str) -> None:
    with pytest.raises(PgfloError) as told:
        parse([text], "public")
    assert int(told.value.exit_code) == 2


@given(schema=st.text(min_size=1), name=st.text(min_size=1))
def test_what_is_printed_is_read_back(schema: str, name: str) -> None:
    pattern = TablePattern(schema, name)
    assert parse([str(pattern)], "public") == (pattern,)


@given(st.text())
def test_no_text_makes_reading_fail_in_another_way(text: str) -> None:
    try:
        parse([text], "public")
    except PgfloError as error:
        assert int(error.exit_code) == 2  # noqa: PT017 - either outcome is fine


def test_only_odd_names_are_quoted() -> None:
    assert [quote(name) for name in ("users", "Users", "a b", "1a", 'q"q')] == [
        "users",
        '"Users"',
        '"a b"',
        '"1a"',
        '"q""q"',
    ]
