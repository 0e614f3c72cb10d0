"""On captured streams of a real server the Rust core says what the oracle says."""

from __future__ import annotations

import itertools

import pytest
from tests.golden import streams
from tests.oracle.changes import read_frames
from tests.oracle.copydata import Keepalive, WalData
from tests.oracle.core_form import core_form
from tests.oracle.envelope import parse, read_envelopes
from tests.oracle.messages import Begin
from tests.oracle.pgoutput import decode, decode_body
from tests.oracle.wire import lengths_prefixed, split_lengths

from pgflo import _core

INCARNATION = b"golden streams.."
SIZES = [(1, 1024), (300, 1024), (4096, 65536), (262144, 917504)]


def first_lsn(name: str) -> int:
    """Give a start before everything: the first commit's own LSN, at ordinal 0."""
    messages = [decode(message) for message in streams.messages(name)]
    return next(each.final_lsn for each in messages if isinstance(each, Begin))


@pytest.mark.parametrize("name", streams.NAMES)
def test_both_decoders_read_the_same_messages(name: str) -> None:
    body = streams.body(name)
    assert _core.decode_messages(body) == [core_form(message) for message in decode_body(body)]


@pytest.mark.parametrize("name", streams.NAMES)
def test_every_cut_message_is_refused(name: str) -> None:
    kinds = {message[:1]: message for message in streams.messages(name)}
    for message in kinds.values():
        for end in range(min(len(message), 600)):
            with pytest.raises(_core.DecodeError):
                _core.decode_messages(lengths_prefixed([message[:end]]))


@pytest.mark.parametrize(("target", "most"), SIZES)
@pytest.mark.parametrize("name", streams.NAMES)
def test_envelopes_tell_every_change_once_from_every_start(
    name: str, target: int, most: int
) -> None:
    lsn = first_lsn(name)
    whole = read_frames(streams.frames(name), (lsn, 0), lsn)
    starts = [((lsn, 0), lsn)]
    starts += [(change.position, change.position[0]) for change in whole.changes[:-1]]
    for start in starts[:: max(1, len(starts) // 12)]:
        assembler = _core.Assembler(
            INCARNATION, *start, target_body_bytes=target, max_body_bytes=most
        )
        made = assembler.feed(streams.block(name)) + assembler.flush()
        found = read_envelopes([envelope.data for envelope in made], *start)
        assert found.changes == [each for each in whole.changes if each.position > start[0]]
        assert (found.position, found.end_lsn) == (whole.position, whole.end_lsn)
        assert all(len(parse(envelope.data).body) <= most for envelope in made)


@pytest.mark.parametrize("name", streams.NAMES)
def test_the_way_in_which_frames_arrive_changes_no_envelope(name: str) -> None:
    lsn = first_lsn(name)
    payloads = split_lengths(streams.block(name))
    results = []
    for step in (1, 3, len(payloads)):
        assembler = _core.Assembler(INCARNATION, (lsn, 0), lsn, target_body_bytes=700)
        made: list[_core.Envelope] = []
        for at in range(0, len(payloads), step):
            made += assembler.feed(lengths_prefixed(payloads[at : at + step]))
        made += assembler.flush()
        results.append([envelope.data for envelope in made])
    assert all(one == other for one, other in itertools.pairwise(results))


@pytest.mark.parametrize("name", streams.NAMES)
def test_headers_are_read_as_the_oracle_reads_them(name: str) -> None:
    lsn = first_lsn(name)
    assembler = _core.Assembler(INCARNATION, (lsn, 0), lsn, target_body_bytes=1)
    envelopes = assembler.feed(streams.block(name)) + assembler.flush()
    assert len(envelopes) > 1
    for envelope in envelopes:
        parsed, header = parse(envelope.data), _core.read_header(envelope.data)
        assert (header.prev_commit_lsn, header.prev_ordinal) == parsed.prev
        assert (header.commit_lsn, header.ordinal) == parsed.position
        for field in ("kind", "end_lsn", "transaction_open", "changes", "part", "parts"):
            assert getattr(header, field) == getattr(parsed, field)
        assert (header.commit_time_us, header.incarnation) == (parsed.commit_time_us, INCARNATION)


@pytest.mark.parametrize("name", streams.NAMES)
def test_the_assembler_knows_how_far_the_server_is(name: str) -> None:
    lsn = first_lsn(name)
    assembler = _core.Assembler(INCARNATION, (lsn, 0), lsn)
    assembler.feed(streams.block(name))
    frames = streams.frames(name)
    ends = [frame.end_lsn for frame in frames]
    starts = [frame.start_lsn for frame in frames if isinstance(frame, WalData)]
    told = [frame.end_lsn for frame in frames if isinstance(frame, Keepalive)]
    assert assembler.keepalive_lsn == told[-1]
    assert assembler.received_lsn >= max(told)
    assert assembler.received_lsn == max([*ends, *starts, assembler.end_lsn])
