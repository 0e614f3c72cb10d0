"""Names, addresses, acknowledgement subjects and times: what is read from and written to NATS."""

from __future__ import annotations

import uuid
from itertools import product

import pytest
from hypothesis import strategies as st
from tests.fix_property import within_budget

from pgflo.broker.delivery import read_ack_subject
from pgflo.broker.names import GROUP_NAME, Names, stream_pattern
from pgflo.broker.stored import nanoseconds
from pgflo.errors import CONFIG, PgfloError

GROUPS = st.from_regex(r"[a-z0-9_]{1,40}", fullmatch=True)


def all_names(names: Names) -> set[str]:
    """Everything two groups must not share."""
    return {
        names.changes_stream,
        names.copy_stream,
        names.changes_subject,
        names.copy_subject(0),
        names.slot,
        f"publication {names.publication}",
        f"publication {names.insert_publication}",
        f"bucket {names.bucket_of(names.group)}",
    }


@within_budget(one=GROUPS, other=GROUPS, one_uuid=st.uuids(), other_uuid=st.uuids())
def test_two_groups_share_no_name(
    one: str, other: str, one_uuid: uuid.UUID, other_uuid: uuid.UUID
) -> None:
    mine, theirs = Names(one, one_uuid), Names(other, other_uuid)
    if one != other:
        assert not all_names(mine) & all_names(theirs)
        assert not stream_pattern(one).fullmatch(theirs.changes_stream)
        assert not stream_pattern(one).fullmatch(theirs.copy_stream)
    assert stream_pattern(one).fullmatch(mine.copy_stream)


@pytest.mark.parametrize(
    ("one", "other"), [("x", "x_insert"), ("a", "a_bbbbbbbb"), ("copy", "copy_changes")]
)
def test_groups_whose_names_contain_each_other_share_no_name(one: str, other: str) -> None:
    ids = [uuid.UUID("bbbbbbbb-0000-4000-8000-000000000000"), uuid.uuid4()]
    for mine, theirs in product(ids, ids):
        assert not all_names(Names(one, mine)) & all_names(Names(other, theirs))


@within_budget(group=GROUPS, incarnation=st.uuids())
def test_names_fit_where_they_are_used(group: str, incarnation: uuid.UUID) -> None:
    names = Names(group, incarnation)
    assert len(names.slot) < 64
    assert len(names.insert_publication) < 64


@pytest.mark.parametrize("group", ["", "A", "a.b", "a-b", "a b", "a*", "x" * 41, "a\n", "ä"])
def test_what_is_no_group_name_is_refused(group: str) -> None:
    assert not GROUP_NAME.fullmatch(group)
    with pytest.raises(PgfloError) as caught:
        Names(group, uuid.uuid4())
    assert caught.value.kind is CONFIG


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.ACK.stream.consumer.2.1234.567.1698765432123456789.8",
        "$JS.ACK._.ACCOUNT.stream.consumer.2.1234.567.1698765432123456789.8",
        "$JS.ACK.hub.ACCOUNT.stream.consumer.2.1234.567.1698765432123456789.8.random",
    ],
)
def test_both_formats_of_acknowledgement_subjects_are_read(subject: str) -> None:
    delivery = read_ack_subject(subject)
    assert delivery is not None
    assert delivery.times_delivered == 2
    assert delivery.stream_seq == 1234
    assert delivery.consumer_seq == 567
    assert delivery.stored_ns == 1698765432123456789


@pytest.mark.parametrize(
    "subject", ["", "_INBOX.abc.1", "$JS.ACK.s.c.1.2.3.4", "$JS.ACK.s.c.a.b.c.d.e", "a.b" * 9]
)
def test_other_subjects_are_not_taken_for_acknowledgements(subject: str) -> None:
    assert read_ack_subject(subject) is None


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("2026-11-23T14:12:50.526491651Z", 1_795_443_170_526_491_651),
        ("2026-11-23T14:12:50.5Z", 1_795_443_170_500_000_000),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, ns: int) -> None:
    assert nanoseconds(text) == ns
