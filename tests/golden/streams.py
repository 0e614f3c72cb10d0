"""Access to the captured streams: which there are, their frames, PostgreSQL's own account of them.

Upstream: `capture`, which wrote the files. Downstream: tests, seeds of the fuzzers, benches.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

from tests.oracle.copydata import Frame, WalData, decode_block
from tests.oracle.wire import lengths_prefixed, split_lengths

CAPTURED = Path(__file__).parent / "captured"
NAMES = sorted(path.stem for path in CAPTURED.glob("*.frames"))


@cache
def block(name: str) -> bytes:
    """Return a capture as one pump block."""
    return (CAPTURED / f"{name}.frames").read_bytes()


def frames(name: str) -> list[Frame]:
    """Return the decoded CopyData payloads of a capture."""
    return decode_block(block(name))


def messages(name: str) -> list[bytes]:
    """Return the pgoutput messages of a capture."""
    return [frame.message for frame in frames(name) if isinstance(frame, WalData)]


def body(name: str) -> bytes:
    """Return the pgoutput messages of a capture as the body of an envelope has them."""
    return lengths_prefixed(messages(name))


def account(name: str) -> list[bytes]:
    """Return what test_decoding printed, one line (perhaps with line ends in it) each."""
    return split_lengths(gzip.decompress((CAPTURED / f"{name}.decoded.gz").read_bytes()))
