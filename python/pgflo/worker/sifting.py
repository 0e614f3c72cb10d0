"""Leaves out of bodies what the copies of their tables hold already.

Upstream: whoever takes a body out of envelopes: `spreading`, `writer`. Downstream: the native
sieve.
Invariant: a change of a table whose snapshot is younger than the stream's start is applied if and
only if its transaction is not in that snapshot. What stays keeps its position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgflo import _core

if TYPE_CHECKING:
    from collections.abc import Mapping


def sifted(
    body: bytes | memoryview, prev: tuple[int, int], snapshots: Mapping[int, int]
) -> bytes | memoryview:
    """Give the body without those changes. `snapshots`: by source oid, of the younger ones."""
    if not snapshots or prev[0] >= max(snapshots.values()):
        return body
    kept = _core.sift(body, prev, dict(snapshots))
    return body if kept is None else kept
