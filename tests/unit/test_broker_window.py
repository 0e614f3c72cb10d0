"""The window's bookkeeping, held against a plain list under drawn orders of events."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from tests.fix_broker import Feed
from tests.fix_property import within_budget

from pgflo.broker.names import Names
from pgflo.broker.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = Names("g", uuid.UUID(int=7))
ENVELOPES = Feed(NAMES).make(60)

EVENTS = st.lists(
    st.one_of(
        st.just(("add", 0)),
        st.just(("send", 0)),
        st.just(("rewind", 0)),
        st.tuples(st.just("settle"), st.integers(-2, 8)),
    ),
    max_size=60,
)


@within_budget(base_seq=st.integers(0, 2**40), events=EVENTS)
def test_each_envelope_is_sent_and_settled_once_under_its_own_sequence(
    base_seq: int, events: list[tuple[str, int]]
) -> None:
    window = Window(base_seq, "last", "run/")
    waiting = list(ENVELOPES)
    added: list[bytes] = []
    settled: list[bytes] = []
    sent_since_rewind: list[int] = []

    def add() -> None:
        if waiting:
            envelope = waiting.pop(0)
            window.add(envelope)
            added.append(envelope.data)

    def send() -> None:
        numbered = window.unsent()
        if numbered is None:
            assert window.sent_seq == base_seq + len(added)
            return
        assert numbered.seq == window.sent_seq + 1
        assert numbered.envelope.data == added[numbered.seq - base_seq - 1]
        sent_since_rewind.append(numbered.seq)
        window.mark_sent(numbered.seq)

    def rewind() -> None:
        window.rewind()
        sent_since_rewind.clear()

    steps: dict[str, Callable[[], None]] = {"add": add, "send": send, "rewind": rewind}
    for event, offset in events:
        if event == "settle":
            seq = window.stored_seq + offset
            settled += [envelope.data for envelope in window.settle(seq)]
            assert window.stored_seq >= min(seq, base_seq + len(added))
        else:
            steps[event]()
        assert window.stored_seq <= window.sent_seq <= base_seq + len(added)
        assert window.stored_seq == base_seq + len(settled)
        assert len(window) == len(added) - len(settled)
        assert window.bytes == sum(map(len, added[len(settled) :]))
        assert sent_since_rewind == sorted(set(sent_since_rewind))
    assert settled == added[: len(settled)]


def test_ids_are_known_from_the_base_on_and_differ() -> None:
    window = Window(5, "of another run", "inc/run/")
    assert window.id_of(4) is None
    assert window.id_of(5) == "of another run"
    assert window.id_of(6) == "inc/run/1"
    assert len({window.id_of(seq) for seq in range(5, 500)}) == 495
