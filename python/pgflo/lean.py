"""Imports of libraries without the optional parts that they load although hardly anyone needs them.

Upstream: `pgflo.logs` and `pgflo.broker`, at their import. Downstream: structlog, nats-py, which
both take what they miss for not installed. Invariant: what is hidden can be imported afterwards.

Every command and every child pays for its imports before it does anything: these two are a third of
that.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
    """Let the imports of the block find `package` not installed. One thread may import then."""
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]
    loaded = modules.get(package)
    # This is what None means there: an import raises ModuleNotFoundError at once.
    modules[package] = None
    try:
        yield
    finally:
        del modules[package]
        if loaded is not None:
            modules[package] = loaded
