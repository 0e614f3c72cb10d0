"""The streams: made as they must be, grown, purged, removed, and searched by position."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from tests.fix_broker import START_LSN, Feed, fill

from pgflo.broker.names import Names
from pgflo.broker.record import Record
from pgflo.broker.topology import (
    create_streams,
    delete_group,
    delete_streams,
    envelope_at,
    grow,
    last_envelope,
    list_streams,
    locate,
    purge_through,
    stream_state,
)
from pgflo.errors import (
    BROKER_CHAIN,
    BROKER_FULL,
    BROKER_REFUSED,
    BROKER_SETTINGS,
    PgfloError,
)

if TYPE_CHECKING:
    from tests.fix_broker import OpenBroker
    from tests.fix_nats import NatsFactory

    from pgflo._core import Envelope
    from pgflo.broker.connection import Broker

MIB = 1024 * 1024


def first_behind(envelopes: list[Envelope], position: tuple[int, int]) -> int:
    """Find by looking at each: the sequence of the first that ends behind `position`."""
    behind = [
        number
        for number, envelope in enumerate(envelopes, 1)
        if (envelope.commit_lsn, envelope.ordinal) > position
    ]
    return behind[0] if behind else len(envelopes) + 1


async def test_every_position_is_located_also_between_parts_and_beyond_both_ends(
    broker: Broker, streams: Names
) -> None:
    feed = Feed(streams, max_body_bytes=3000)
    envelopes = [*feed.make(6), *feed.make(1, row_bytes=10_000), *feed.make(6)]
    assert len(envelopes) > 13, "one of them comes in parts"
    await fill(broker, streams, envelopes)
    positions = {(START_LSN, 0), (0, 0), (2**63, 0)}
    for envelope in envelopes:
        at = envelope.commit_lsn
        positions |= {(at, 0), (at, envelope.ordinal), (at, envelope.ordinal + 1), (at - 1, 9)}
    for position in sorted(positions):
        found = await locate(broker, streams.changes_stream, position)
        assert found == first_behind(envelopes, position), position


async def test_positions_are_located_in_a_stream_whose_beginning_is_purged(
    broker: Broker, streams: Names
) -> None:
    envelopes = Feed(streams).make(12)
    await fill(broker, streams, envelopes)
    await purge_through(broker, streams.changes_stream, 5)
    for envelope in envelopes:
        position = (envelope.commit_lsn, envelope.ordinal)
        found = await locate(broker, streams.changes_stream, position)
        assert found == max(6, first_behind(envelopes, position))


async def test_an_empty_stream_is_located_at_its_beginning(broker: Broker, streams: Names) -> None:
    assert await locate(broker, streams.changes_stream, (START_LSN, 0)) == 1
    assert await last_envelope(broker, streams.changes_stream) is None
    assert await envelope_at(broker, streams.changes_stream, 1) is None


async def test_a_foreign_message_in_the_stream_is_not_passed_over(
    broker: Broker, streams: Names
) -> None:
    await fill(broker, streams, Feed(streams).make(2))
    await broker.js.publish(streams.changes_subject, b"what is this?")
    with pytest.raises(PgfloError) as caught:
        await last_envelope(broker, streams.changes_stream)
    assert caught.value.kind is BROKER_CHAIN


async def test_purging_never_takes_the_last_envelope(broker: Broker, streams: Names) -> None:
    envelopes = Feed(streams).make(5)
    await fill(broker, streams, envelopes)
    await purge_through(broker, streams.changes_stream, 0)
    assert (await stream_state(broker, streams.changes_stream)).first_seq == 1
    await purge_through(broker, streams.changes_stream, 3)
    assert (await stream_state(broker, streams.changes_stream)).first_seq == 4
    for _ in range(2):
        await purge_through(broker, streams.changes_stream, 99)
        last = await last_envelope(broker, streams.changes_stream)
        assert last is not None
        assert (last.seq, last.header.commit_lsn) == (5, envelopes[4].commit_lsn)
        assert last.message_id.startswith(f"{streams.incarnation}/")


async def test_purging_one_lane_leaves_the_others(broker: Broker, streams: Names) -> None:
    for number in range(12):
        await broker.js.publish(streams.copy_subject(number % 3), b"x")
    await purge_through(broker, streams.copy_stream, 8, subject=streams.copy_subject(1))
    info = await broker.ask(
        f"STREAM.INFO.{streams.copy_stream}", {"subjects_filter": streams.copy_subjects}
    )
    assert info["state"]["subjects"] == {
        streams.copy_subject(0): 4,
        streams.copy_subject(1): 1,
        streams.copy_subject(2): 4,
    }


async def test_streams_are_made_once_and_their_growth_is_no_difference(
    nats_url: str, open_broker: OpenBroker, names: Names
) -> None:
    broker = await open_broker(nats_url, stream_max_bytes=3 * MIB)
    await create_streams(broker, names, broker.settings, copy=True, first_max_bytes=MIB)
    sizes = []
    while await grow(broker, names.changes_stream, broker.settings):
        sizes.append((await stream_state(broker, names.changes_stream)).max_bytes)
    assert sizes == [2 * MIB, 3 * MIB]
    await create_streams(broker, names, broker.settings, copy=True, first_max_bytes=MIB)
    assert (await stream_state(broker, names.changes_stream)).max_bytes == 3 * MIB


@pytest.mark.parametrize(
    "wrong",
    [
        {"discard": "old"},
        {"max_age": 3_600_000_000_000},
        {"retention": "workqueue"},
        {"storage": "memory", "max_bytes": 1_000_000},  # as much as the server promises
        {"max_msgs": 100},
        {"max_bytes": -1},
        {"subjects": ["something.else"]},
    ],
)
async def test_a_stream_that_forgets_by_itself_is_refused_by_the_name_of_the_setting(
    broker: Broker, names: Names, wrong: dict[str, object]
) -> None:
    await create_streams(broker, names, broker.settings, copy=False)
    config = (await broker.ask(f"STREAM.INFO.{names.changes_stream}", {}))["config"]
    await delete_streams(broker, names)
    await broker.ask(f"STREAM.CREATE.{names.changes_stream}", {**config, **wrong})
    with pytest.raises(PgfloError) as caught:
        await create_streams(broker, names, broker.settings, copy=False)
    assert caught.value.kind is BROKER_SETTINGS
    assert next(iter(wrong)) in caught.value.detail


async def test_a_server_without_room_says_what_is_reserved(
    nats_factory: NatsFactory, open_broker: OpenBroker, names: Names
) -> None:
    broker = await open_broker(nats_factory(max_store_bytes=8 * MIB).url)
    await create_streams(broker, names, broker.settings, copy=False, first_max_bytes=3 * MIB)
    # What is there already may have any size.
    await create_streams(broker, names, broker.settings, copy=False, first_max_bytes=2 * MIB)
    with pytest.raises(PgfloError) as creating:
        await create_streams(broker, names, broker.settings, copy=True, first_max_bytes=6 * MIB)
    assert creating.value.kind is BROKER_FULL
    assert str(3 * MIB) in creating.value.detail
    assert await grow(broker, names.changes_stream, broker.settings)
    with pytest.raises(PgfloError) as growing:
        await grow(broker, names.changes_stream, broker.settings)
    assert growing.value.kind is BROKER_FULL
    assert str(6 * MIB) in growing.value.detail


async def test_dropping_a_group_removes_every_incarnation_and_nothing_of_its_namesakes(
    broker: Broker,
) -> None:
    doomed = [Names("g", uuid.uuid4()), Names("g", uuid.uuid4())]
    kept = [Names("g_2", uuid.uuid4()), Names("gg", uuid.uuid4())]
    # A group whose name looks like an incarnation of the other.
    kept.append(Names(doomed[0].changes_stream.removeprefix("pgflo_")[:10], uuid.uuid4()))
    for one in (*doomed, *kept):
        await create_streams(broker, one, broker.settings, copy=True, first_max_bytes=MIB)
        await Record.open(broker, one.group, create=True)
    await delete_group(broker, "g")
    assert await list_streams(broker, "g") == []
    assert await Record.open(broker, "g", create=False) is None
    for one in kept:
        found = await list_streams(broker, one.group)
        assert sorted(found) == [one.changes_stream, one.copy_stream]
        assert await Record.open(broker, one.group, create=False) is not None
    await delete_group(broker, "g")


async def test_a_stream_that_is_not_there_is_told_as_such(broker: Broker, names: Names) -> None:
    with pytest.raises(PgfloError) as caught:
        await stream_state(broker, names.changes_stream)
    assert caught.value.kind is BROKER_REFUSED
    assert caught.value.context["err_code"] == 10059
    await delete_streams(broker, names)
