"""The Rust decoder and the slow Python one say the same about every sequence of bytes."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from tests.fix_property import within_budget
from tests.golden import streams
from tests.oracle.core_form import core_form
from tests.oracle.encode import encode
from tests.oracle.pgoutput import decode, decode_body
from tests.oracle.wire import MalformedError, lengths_prefixed
from tests.property.messages import MESSAGES
from tests.property.mutations import mutations

from pgflo import _core

if TYPE_CHECKING:
    from tests.oracle.messages import Message


def oracle_says(body: bytes) -> list[tuple[object, ...]] | None:
    """Decode slowly; None for a refusal."""
    try:
        return [core_form(message) for message in decode_body(body)]
    except MalformedError:
        return None


def core_says(body: bytes) -> list[tuple[object, ...]] | None:
    """Decode with the core; None for a refusal. A panic or any other error passes through."""
    try:
        return list(_core.decode_messages(body))
    except _core.DecodeError:
        return None


@within_budget(drawn=st.lists(MESSAGES, max_size=8))
def test_both_decoders_read_what_the_encoder_wrote(drawn: list[Message]) -> None:
    encoded = [encode(message) for message in drawn]
    assert [decode(one) for one in encoded] == drawn
    assert core_says(lengths_prefixed(encoded)) == [core_form(message) for message in drawn]


@within_budget(body=mutations(st.lists(MESSAGES.map(encode), max_size=4).map(lengths_prefixed)))
def test_both_decoders_agree_on_damaged_messages(body: bytes) -> None:
    assert core_says(body) == oracle_says(body)


@within_budget(
    body=mutations(
        st.sampled_from(
            [
                lengths_prefixed([m])
                for n in streams.NAMES
                if n != "wide"
                for m in streams.messages(n)
            ]
        )
    )
)
def test_both_decoders_agree_on_damaged_messages_of_a_real_server(body: bytes) -> None:
    assert core_says(body) == oracle_says(body)


@within_budget(body=st.binary(max_size=200).map(lambda tail: lengths_prefixed([tail])))
def test_both_decoders_agree_on_noise(body: bytes) -> None:
    assert core_says(body) == oracle_says(body)


def test_a_lie_about_a_length_or_a_count_is_refused_without_memory_for_it() -> None:
    most = b"\x7f\xff\xff\xff"
    lies = [
        b"T" + most + b"\0",
        b"T" + b"\x20\0\0\0\0" + b"\0\0\0\1",
        b"I\0\0\0\1N" + b"\x7f\xff",
        b"I\0\0\0\1N\0\1t" + most,
        b"I\0\0\0\1N\0\1b" + most + b"abc",
        b"I\0\0\0\1N" + b"\x80\0" + b"n" * 0x8000,
        b"R\0\0\0\1s\0t\0d" + b"\x7f\xff",
        b"M\0" + bytes(8) + b"p\0" + most,
    ]
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(100):
        for lie in lies:
            assert oracle_says(lengths_prefixed([lie])) is None
            assert core_says(lengths_prefixed([lie])) is None
            assert core_says(b"\xff\xff\xff\xff" + lie) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 16 * 1024
