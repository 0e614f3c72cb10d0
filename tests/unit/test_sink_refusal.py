"""What a sink did not take is named by table and position."""

from __future__ import annotations

import pytest

from pgflo import errors
from pgflo.errors import PgfloError
from pgflo.sinks.refusal import place

HUGE = b"9" * 10_000  # Python itself reads no more than 4300 digits
FIRST = (
    b'{"id":"g:1:0/A:1","op":"insert","schema":"s","table":"Odd t","new":{"n":%s,"x":1e999},'
    b'"commit_lsn":"0/A","ordinal":1}' % HUGE
)
SECOND = FIRST.replace(b'"ordinal":1', b'"ordinal":2')


@pytest.mark.parametrize(
    "events", [FIRST, FIRST + b"\n" + SECOND + b"\n", b"[" + FIRST + b"," + SECOND + b"]"]
)
def test_the_first_of_the_events_is_named(events: bytes) -> None:
    error = PgfloError(errors.SINK_REJECTED, "no")
    place(error, events)
    assert error.context == {"table": "s.Odd t", "position": "0/A:1"}


def test_values_that_python_cannot_read_leave_the_error_as_it_is() -> None:
    deep = FIRST.replace(HUGE, b"[" * 100_000 + b"]" * 100_000)
    error = PgfloError(errors.SINK_REJECTED, "no")
    place(error, deep)
    assert error.context == {}


def test_an_error_that_tells_its_place_keeps_it() -> None:
    error = PgfloError(errors.SINK_REJECTED, "no", position="0/B:3")
    place(error, FIRST)
    assert error.context == {"position": "0/B:3"}
