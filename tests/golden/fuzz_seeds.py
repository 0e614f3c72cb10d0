"""Makes the seeds of the fuzz targets out of the captured streams of a real server.

Run by hand (`python -m tests.golden.fuzz_seeds`); what it writes to rust/fuzz/seeds/ is checked
in. Upstream: `streams`. Invariant: small, since every run starts by reading all of them.
"""

from __future__ import annotations

import struct
from pathlib import Path

from tests.golden import streams
from tests.oracle.wire import lengths_prefixed, split_lengths

from pgflo import _core

SEEDS = Path(__file__).parents[2] / "rust" / "fuzz" / "seeds"
FRAMES = 40
"""Frames taken of a stream: enough to have each message kind once."""


def lead(first_lsn: int) -> bytes:
    """Build what the target `assemble` reads before its block."""
    return struct.pack(">BBQBB", 1, 9, first_lsn, 0, 0)


def net_lead() -> bytes:
    """Build what the target `net` reads before its bodies: key, one target, no slow table."""
    return struct.pack(">BBQQH", 1, 0, 0, 0, 2**16 - 1)


def split_lead() -> bytes:
    """Build what the target `split` reads before its bodies: three shards, the first column."""
    return struct.pack(">BBQQH", 2, 1, 0, 0, 2**16 - 1)


def rules_lead() -> bytes:
    """Build what the target `rules` reads before its body: a mask for text, without a constant."""
    return bytes([1, 0, 3, 0])


def main() -> None:
    """Write all seeds anew."""
    for name in streams.NAMES:
        if name in ("wide", "toast"):
            continue
        block = lengths_prefixed(split_lengths(streams.block(name))[:FRAMES])
        assembler = _core.Assembler(b"seeds of fuzzing", (1, 0), 1, target_body_bytes=1)
        envelopes = assembler.feed(streams.block(name))
        write("assemble", name, lead(1) + block)
        write("decode_body", name, lengths_prefixed(streams.messages(name)[:FRAMES]))
        write("replay", name, bytes(18) + lengths_prefixed(streams.messages(name)[:FRAMES]))
        write("net", name, net_lead() + lengths_prefixed(streams.messages(name)[:FRAMES]))
        write("json", name, bytes(3) + lengths_prefixed(streams.messages(name)[:FRAMES]))
        write("split", name, split_lead() + lengths_prefixed(streams.messages(name)[:FRAMES]))
        write("rules", name, rules_lead() + lengths_prefixed(streams.messages(name)[:FRAMES]))
        write("read_header", name, envelopes[0].data)
    mark = _core.Assembler(b"seeds of fuzzing", (1, 0), 1)
    mark.feed(lengths_prefixed([struct.pack(">cQqB", b"k", 9, 0, 1)]))
    write("read_header", "watermark", mark.watermark(9).data)
    packer = _core.CopyPacker(
        b"seeds of fuzzing", 1, 2, 3, 4, target_body_bytes=99, max_body_bytes=1024
    )
    packer.feed(b"row\n" * 3, 3)
    write("read_header", "copy", packer.finish())


def write(target: str, name: str, seed: bytes) -> None:
    """Store one seed."""
    (SEEDS / target).mkdir(parents=True, exist_ok=True)
    (SEEDS / target / name).write_bytes(seed)


if __name__ == "__main__":
    main()
