"""The LSN ledger keeps its order whatever happens, and confirms neither too early nor never."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pgflo.replicator.ledger import (
    WATERMARK_BYTES,
    WATERMARK_INTERVAL_S,
    ConfirmAfter,
    Ledger,
    LedgerError,
)

HORIZON_S = 150.0


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def opened(confirm_after: ConfirmAfter, clock: Clock) -> Ledger:
    ledger = Ledger(confirm_after, HORIZON_S, clock)
    ledger.begin(confirmed_lsn=100, published_lsn=100)
    return ledger


def test_auto_confirms_what_the_broker_held_for_the_horizon() -> None:
    clock = Clock()
    ledger = opened(ConfirmAfter.AUTO, clock)
    ledger.receive(300)
    ledger.publish(200)
    clock.now += HORIZON_S - 1
    ledger.publish(300)
    assert ledger.confirm() == 100
    clock.now += 1
    assert ledger.confirm() == 200
    clock.now += HORIZON_S
    assert ledger.confirm() == 300


def test_auto_confirms_at_once_what_every_sink_committed() -> None:
    ledger = opened(ConfirmAfter.AUTO, Clock())
    ledger.receive(300)
    ledger.publish(250)
    ledger.commit_by_sinks(200)
    assert ledger.confirm() == 200


def test_a_sink_that_claims_more_than_was_published_confirms_only_what_was_published() -> None:
    ledger = opened(ConfirmAfter.SINK, Clock())
    ledger.receive(300)
    ledger.publish(250)
    ledger.commit_by_sinks(10_000)
    assert ledger.confirm() == 250


def test_sink_never_confirms_by_time() -> None:
    clock = Clock()
    ledger = opened(ConfirmAfter.SINK, clock)
    ledger.receive(300)
    ledger.publish(300)
    clock.now += 10 * HORIZON_S
    assert ledger.confirm() == 100


def test_broker_confirms_on_its_acknowledgement() -> None:
    ledger = opened(ConfirmAfter.BROKER, Clock())
    ledger.receive(300)
    assert ledger.confirm() == 100
    ledger.publish(300)
    assert ledger.confirm() == 300


def test_what_was_never_received_cannot_be_published() -> None:
    ledger = opened(ConfirmAfter.BROKER, Clock())
    with pytest.raises(LedgerError):
        ledger.publish(101)


def test_a_slot_ahead_of_the_stream_is_refused() -> None:
    ledger = Ledger(ConfirmAfter.AUTO, HORIZON_S, Clock())
    with pytest.raises(LedgerError):
        ledger.begin(confirmed_lsn=101, published_lsn=100)


def test_a_reconnect_keeps_the_age_of_what_the_broker_holds() -> None:
    clock = Clock()
    ledger = opened(ConfirmAfter.AUTO, clock)
    ledger.receive(200)
    ledger.publish(200)
    clock.now += HORIZON_S - 1
    ledger.begin(confirmed_lsn=100, published_lsn=200)
    clock.now += 1
    assert ledger.confirm() == 200


def test_a_broker_that_went_back_starts_the_horizon_anew() -> None:
    clock = Clock()
    ledger = opened(ConfirmAfter.AUTO, clock)
    ledger.receive(300)
    ledger.publish(300)
    clock.now += HORIZON_S - 1
    ledger.begin(confirmed_lsn=100, published_lsn=200)
    ledger.receive(300)
    clock.now += 1
    assert ledger.confirm() == 100
    ledger.publish(300)
    clock.now += HORIZON_S - 1
    assert ledger.confirm() == 200


def test_a_watermark_waits_for_the_interval_or_a_segment_of_wal() -> None:
    clock = Clock()
    ledger = opened(ConfirmAfter.AUTO, clock)
    assert not ledger.wants_watermark(200)
    assert ledger.wants_watermark(100 + WATERMARK_BYTES)
    clock.now += WATERMARK_INTERVAL_S
    assert ledger.wants_watermark(200)
    assert not ledger.wants_watermark(100)
    ledger.watermark_made()
    assert not ledger.wants_watermark(200)


@given(st.lists(st.floats(0.001, 2.0), min_size=1, max_size=2000))
def test_the_horizon_queue_stays_small_and_never_passes_early(steps_s: list[float]) -> None:
    clock = Clock()
    ledger = opened(ConfirmAfter.AUTO, clock)
    stored_at = {100: clock.now}
    for number, step_s in enumerate(steps_s, start=101):
        clock.now += step_s
        ledger.receive(number)
        ledger.publish(number)
        stored_at[number] = clock.now
        confirmed_lsn = ledger.confirm()
        assert confirmed_lsn == 100 or stored_at[confirmed_lsn] <= clock.now - HORIZON_S
        assert len(ledger._held) <= 2 * HORIZON_S + 2  # its bound is the promise


class LedgerMachine(RuleBasedStateMachine):
    """Anything the outside may do, in any order; a kill is a new ledger with the slot's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.rule = ConfirmAfter.AUTO
        self.ledger = opened(self.rule, self.clock)
        self.stored: list[tuple[float, int]] = [(self.clock.now, 100)]
        self.sinks_lsn = 0
        self.heard_lsn = 100

    @rule(step=st.integers(0, 1000))
    def receive(self, step: int) -> None:
        """Let the walsender decode more."""
        self.ledger.receive(self.ledger.received_lsn + step)

    @rule(part=st.floats(0, 1))
    def store(self, part: float) -> None:
        """Let the broker store some of what was received."""
        ahead = self.ledger.received_lsn - self.ledger.published_lsn
        lsn = self.ledger.published_lsn + int(ahead * part)
        self.ledger.publish(lsn)
        self.stored.append((self.clock.now, lsn))

    @rule(part=st.floats(0, 2))
    def sinks_commit(self, part: float) -> None:
        """Let the sinks commit, and even claim more than there is."""
        self.sinks_lsn = max(self.sinks_lsn, int(self.ledger.published_lsn * part))
        self.ledger.commit_by_sinks(self.sinks_lsn)

    @rule(seconds=st.floats(0, 200))
    def time_passes(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds

    @rule()
    def confirm(self) -> None:
        """Send a status message."""
        lsn = self.ledger.confirm()
        assert lsn >= self.heard_lsn, "a confirmation went back"
        held = max(
            (at for at in self.stored if at[0] <= self.clock.now - HORIZON_S), default=(0, 0)
        )
        published_lsn = self.stored[-1][1]
        assert lsn <= published_lsn, "confirmed beyond the last envelope"
        assert lsn <= max(self.sinks_lsn, held[1], self.heard_lsn), "confirmed what is not safe"
        self.heard_lsn = lsn

    @rule()
    def reconnect(self) -> None:
        """Lose the connection and open another."""
        self.ledger.begin(confirmed_lsn=self.heard_lsn, published_lsn=self.ledger.published_lsn)
        self.stored.append((self.clock.now, self.ledger.published_lsn))

    @rule()
    def kill(self) -> None:
        """Kill the replicator and start it again."""
        published_lsn = self.ledger.published_lsn
        self.ledger = Ledger(self.rule, HORIZON_S, self.clock)
        self.ledger.begin(confirmed_lsn=self.heard_lsn, published_lsn=published_lsn)
        self.ledger.commit_by_sinks(self.sinks_lsn)
        self.stored = [(self.clock.now, published_lsn)]

    @invariant()
    def the_four_lsns_are_in_order(self) -> None:
        """Check the ledger's promise."""
        ledger = self.ledger
        assert ledger.confirmed_lsn <= ledger.safe_lsn
        assert ledger.safe_lsn <= ledger.published_lsn <= ledger.received_lsn


TestLedgerMachine = LedgerMachine.TestCase
