"""Draws damaged bytes: cut, stretched, flipped, spliced, with lengths and counts that lie.

Downstream: tests that ask two readers for the same verdict. Invariant: any bytes may come out, also
the undamaged ones.
"""

from __future__ import annotations

import struct

from hypothesis import strategies as st

LIES = [
    struct.pack(form, value)
    for form, values in {
        ">h": (-1, -32768, 32767, 1601),
        ">i": (-1, -(2**31), 2**31 - 1, 2**30, 65536),
        ">B": (0, 1, 2, 4, 255),
    }.items()
    for value in values
]


@st.composite
def mutations(draw: st.DrawFn, originals: st.SearchStrategy[bytes], *, most: int = 3) -> bytes:
    """Draw an original and damage it up to `most` times."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "byte", "cut", "drop", "insert", "lie", "repeat"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "byte" if at < len(data):
                data[at] = draw(st.sampled_from(b"nutbNKOIUDRTMBCYkw\x00\x01\x02\xff"))
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + draw(st.integers(1, 8))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "lie":
                lie = draw(st.sampled_from(LIES))
                data[at : at + len(lie)] = lie
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
    return bytes(data)
