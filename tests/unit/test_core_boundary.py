"""What the native core promises at its edge: which arguments it takes, what its errors carry."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pgflo import _core

if TYPE_CHECKING:
    from collections.abc import Callable

INCARNATION = bytes(range(16))


def block(*payloads: bytes) -> bytes:
    """Frames as the pump hands them over."""
    return b"".join(struct.pack(">I", len(payload)) + payload for payload in payloads)


def keepalive(lsn: int) -> bytes:
    return struct.pack(">cQqB", b"k", lsn, 0, 0)


def assembler() -> _core.Assembler:
    return _core.Assembler(INCARNATION, (0x100, 0), 0x100)


def packer() -> _core.CopyPacker:
    return _core.CopyPacker(
        INCARNATION, 16384, 0x100, 1, 2, target_body_bytes=4096, max_body_bytes=8192
    )


@pytest.mark.parametrize("text", ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"])
def test_an_lsn_is_printed_as_it_was_read(text: str) -> None:
    assert _core.lsn_format(_core.lsn_parse(text)) == text


def test_what_is_not_an_lsn_is_a_core_error_with_its_reason() -> None:
    with pytest.raises(_core.CoreError) as caught:
        _core.lsn_parse("16-B374D848")
    assert caught.value.reason.startswith("an LSN is")
    assert (caught.value.offset, caught.value.message_kind) == (0, "")


@pytest.mark.parametrize("lsn", [-1, 2**64])
def test_a_number_that_no_lsn_has_is_refused(lsn: int) -> None:
    with pytest.raises(OverflowError):
        _core.lsn_format(lsn)


@pytest.mark.parametrize("as_buffer", [bytes, bytearray, memoryview])
def test_any_contiguous_buffer_is_taken(as_buffer: Callable[[bytes], bytes]) -> None:
    reader = assembler()
    assert reader.feed(as_buffer(block(keepalive(0x200)))) == []
    assert (reader.keepalive_lsn, reader.frames) == (0x200, 1)


def test_text_is_no_buffer() -> None:
    with pytest.raises(TypeError):
        assembler().feed("frames")  # type: ignore[arg-type]


def test_a_decode_error_tells_message_offset_and_reason() -> None:
    reader = assembler()
    first = block(keepalive(0x200))
    change = struct.pack(">cQQq", b"w", 0x300, 0x300, 0) + b"I\0\0\0\7N\0\0"
    with pytest.raises(_core.DecodeError) as caught:
        reader.feed(first + block(change))
    assert (caught.value.message_kind, caught.value.offset) == ("I", len(first) + 4 + 25)
    assert caught.value.reason == "outside of a transaction"
    assert str(caught.value) == f"message 'I' at byte {caught.value.offset}: {caught.value.reason}"


def test_after_an_error_an_assembler_refuses_every_call_but_still_tells_where_it_stood() -> None:
    reader = assembler()
    with pytest.raises(_core.DecodeError):
        reader.feed(b"\0")
    for call in (lambda: reader.feed(b""), reader.flush, lambda: reader.watermark(0x200)):
        with pytest.raises(_core.EnvelopeError, match="stopped at an earlier error"):
            call()
    assert (reader.commit_lsn, reader.ordinal, reader.end_lsn) == (0x100, 0, 0x100)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_an_incarnation_has_sixteen_bytes(length: int) -> None:
    with pytest.raises(_core.EnvelopeError, match="16 bytes"):
        _core.Assembler(bytes(length), (0, 0), 0)


@pytest.mark.parametrize(("target", "most"), [(0, 4096), (4097, 4096), (1, 1023), (1, 2**30)])
def test_sizes_that_no_envelope_can_have_are_refused(target: int, most: int) -> None:
    with pytest.raises(_core.EnvelopeError, match="body_bytes"):
        _core.Assembler(INCARNATION, (0, 0), 0, target_body_bytes=target, max_body_bytes=most)


def test_a_watermark_reads_back_as_it_was_made() -> None:
    reader = assembler()
    reader.feed(block(keepalive(0x200)))
    envelope = reader.watermark(0x200)
    header = _core.read_header(envelope.data)
    assert (header.kind, header.incarnation) == (_core.KIND_WATERMARK, INCARNATION)
    assert (header.prev_commit_lsn, header.prev_ordinal) == (0x100, 0)
    assert (header.commit_lsn, header.ordinal, header.end_lsn) == (0x200, 0, 0x200)
    assert (header.part, header.parts, header.body_bytes) == (0, 1, 0)
    assert (envelope.commit_lsn, envelope.ordinal, envelope.end_lsn) == (0x200, 0, 0x200)


def test_a_damaged_envelope_is_refused_unless_its_body_is_not_asked_about() -> None:
    sealer = packer()
    sealer.feed(b"a row\n", 1)
    envelope = bytearray(sealer.finish())
    envelope[-1] ^= 1
    assert _core.read_header(envelope, verify=False).total_rows == 1
    with pytest.raises(_core.EnvelopeError, match="checksum"):
        _core.read_header(envelope)


def test_copy_bodies_concatenate_to_the_rows() -> None:
    sealer = packer()
    rows = b"".join(b"%d\n" % number for number in range(3000))
    envelopes = [*sealer.feed(memoryview(rows), 3000), sealer.finish()]
    assert b"".join(envelope[_core.HEADER_BYTES :] for envelope in envelopes) == rows
    headers = [_core.read_header(envelope) for envelope in envelopes]
    assert [header.part_no for header in headers] == list(range(len(envelopes)))
    assert [header.final for header in headers] == [False] * (len(envelopes) - 1) + [True]
    assert sum(header.rows for header in headers) == headers[-1].total_rows == 3000
    named = {(h.relation_oid, h.snapshot_lsn, h.range_no, h.attempt) for h in headers}
    assert named == {(16384, 0x100, 1, 2)}
    assert (sealer.rows, sealer.bytes) == (3000, len(rows))


def test_headers_cannot_be_changed() -> None:
    header = _core.read_header(packer().finish())
    with pytest.raises(AttributeError):
        header.rows = 5  # type: ignore[misc]
